"""Which domains are to be latched, and which ones a set of nft holds."""

from __future__ import annotations

import sys

import pytest

from tests.support.clock import utc
from xenbw.blocks.latch import domids
from xenbw.blocks.latch_text import FIRST_GROUP
from xenbw.enforce.desired import running
from xenbw.model import Binding, Kind

HERE, EARLIER = "this-boot", "an-earlier-boot"


def binding(number: int, vm_id: int, domid: int, boot_id: str = HERE) -> Binding:
    return Binding(number, vm_id, boot_id, domid, 0, Kind.VIF, number, f"vif{domid}.0", utc("2026-03-01"))


def test_domains_of_blocked_vms_are_latched() -> None:
    assert running([binding(1, 10, 5), binding(2, 11, 6), binding(3, 11, 6)], {11}, HERE) == {6: 11}


def test_a_domid_of_an_earlier_boot_is_not_latched() -> None:
    assert running([binding(1, 10, 5, EARLIER)], {10}, HERE) == {}


@pytest.mark.parametrize(("blocked", "latched"), [({10}, {}), ({11}, {5: 11})])
def test_a_domid_belongs_to_the_vm_that_had_it_last(blocked: set[int], latched: dict[int, int]) -> None:
    assert running([binding(2, 11, 5), binding(1, 10, 5)], blocked, HERE) == latched


def element(name: bytes, kind: int = 1) -> bytes:
    return name.ljust(16, b"\0") + kind.to_bytes(2, sys.byteorder) + bytes(2)


def test_a_sets_elements_are_domains() -> None:
    assert domids([element(b"vif7."), element(b"vif32751.")]) == {7, 32751}


@pytest.mark.parametrize("name", [b"vif7", b"vif", b"vif7.0", b"eth0", b"vif07."])
def test_a_foreign_element_is_reported(name: bytes) -> None:
    assert domids([element(name), element(b"vif7.")]) == {-1, 7}


@pytest.mark.parametrize(("group", "domid"), [(1, 1), (32751, 32751), (0, -1), (0x7FF0, -1), (-FIRST_GROUP, -1)])
def test_a_group_belongs_to_a_domain_or_is_foreign(group: int, domid: int) -> None:
    assert domids([(FIRST_GROUP + group).to_bytes(4, sys.byteorder)]) == {domid}


def test_another_type_of_element_is_foreign() -> None:
    assert domids([element(b"vif7.", 772)]) == {-1}
