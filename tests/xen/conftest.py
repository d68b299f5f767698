"""The scenarios run in the emulated dom0 only: python3 -m tests.xen."""

collect_ignore = ["scenarios"]
