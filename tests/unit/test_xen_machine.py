"""The emulated Xen machine: whose fault its death was."""

from __future__ import annotations

from tests.xen.machine import impossible_flags

# From the console of a dom0 whose network backend read from address 0, in emulation.
_NONSENSE = b"[ 2799.506087] RSP: e02b:ffffc90040093aa8 EFLAGS: 189c4682\r\n"
_OOPS = b"[   12.340987] RSP: e02b:ffffc90040093aa8 EFLAGS: 00010246\r\n"


def test_flags_that_no_processor_has_are_the_emulators_fault() -> None:
    assert impossible_flags(_OOPS + _NONSENSE)


def test_a_kernel_that_dies_with_flags_of_a_processor_is_not() -> None:
    assert not impossible_flags(_OOPS)
    assert not impossible_flags(b"Kernel panic - not syncing: Attempted to kill init!\r\n")
    # ID, the highest flag that there is.
    assert not impossible_flags(b"EFLAGS: 00210202\r\n")
