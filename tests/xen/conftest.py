"""The scenarios run only in the emulated dom0: python3 -m tests.xen."""

collect_ignore = ["scenarios"]
