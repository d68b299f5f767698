"""What the throttle says where the kernel refuses what it needs. tests/kernel/test_throttle.py has one that can."""

from __future__ import annotations

import pytest

from xenbw.blocks.block import Wanted
from xenbw.blocks.throttle import Throttle
from xenbw.nft.chains import Chains
from xenbw.nft.port import Port
from xenbw.nft.tables import Tables

PORT = Port(7, 0, 12, "vif7.0", throttle=(3, 10**6, 10**6))


def refusing(words: str) -> Throttle:
    """A throttle whose kernel refuses each batch with these words in it."""
    tables = Tables(lambda text: "Operation not supported" if words in text else None)
    return Throttle(tables, Chains(tables))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("hook egress", "nft refuses netdev chains with ingress and egress hooks (they need linux 5.16)"),
        ("add limit", "nft refuses limits in netdev chains"),
    ],
)
def test_a_kernel_that_cannot_throttle_is_told_with_the_reason(words: str, why: str) -> None:
    assert refusing(words).probe() == f"VMs cannot be throttled on this host: {why}: Operation not supported"


def test_a_kernel_that_can_is_not_mentioned() -> None:
    assert refusing("nothing that is sent").probe() is None


def test_without_chains_one_problem_is_told_and_only_if_a_vm_is_to_be_throttled() -> None:
    throttle = refusing("hook egress")
    throttle.probe()
    assert throttle.apply(Wanted(ports=(PORT._replace(throttle=None),))).problems == ()
    assert throttle.apply(Wanted(ports=(PORT, PORT))).problems == (
        "VMs cannot be throttled on this host: its kernel has no netdev chains",
    )
