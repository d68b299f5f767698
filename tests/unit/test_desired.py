from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import utc
from xenbw.enforce.desired import Holder, is_protected, plan
from xenbw.model import Address

EARLIER, LATER = utc("2026-03-01"), utc("2026-03-02")
IP = ip_address("192.0.2.7")
IP6 = ip_address("2001:db8::7")
DOM0 = ip_address("192.0.2.1")


def running(name: str, *addresses: object, blocked: bool = False, since: datetime = EARLIER) -> Holder:
    held = frozenset(ip_address(str(address)) for address in addresses)
    return Holder(name, blocked, held, frozenset(), held, since)


def told(name: str, *addresses: object, blocked: bool = False) -> Holder:
    """A running VM to which the admin gave addresses that none of its interfaces is known to have."""
    held = frozenset(ip_address(str(address)) for address in addresses)
    return Holder(name, blocked, frozenset(), held, held, EARLIER)


def down(name: str, *addresses: object, blocked: bool = False, since: datetime = EARLIER) -> Holder:
    known = frozenset(ip_address(str(address)) for address in addresses)
    return Holder(name, blocked, frozenset(), frozenset(), known, since)


def routes(*holders: Holder) -> Mapping[Address, str]:
    return plan(holders, ()).null_routes


def test_a_blocked_vm_has_all_its_addresses_blocked_running_or_not() -> None:
    assert routes(running("a", IP, IP6, blocked=True)) == {IP: "a", IP6: "a"}
    assert routes(down("a", IP, IP6, blocked=True)) == {IP: "a", IP6: "a"}


def test_a_vm_in_good_standing_has_none_blocked_and_its_addresses_are_held() -> None:
    found = plan([running("a", IP)], ())
    assert found.null_routes == {}
    assert found.held == {IP}


def test_an_address_that_a_running_vm_in_good_standing_holds_is_not_blocked_for_a_former_owner() -> None:
    assert routes(down("old", IP, blocked=True), running("new", IP, since=LATER)) == {}
    assert routes(down("old", IP, blocked=True, since=LATER), running("new", IP)) == {}


def test_a_running_blocked_vm_keeps_its_address_blocked_although_another_vm_once_had_it() -> None:
    assert routes(running("a", IP, blocked=True), down("b", IP, since=LATER)) == {IP: "a"}


@pytest.mark.parametrize("since", [EARLIER, LATER])
def test_of_two_running_vms_with_one_address_the_one_in_good_standing_decides(since: datetime) -> None:
    other = running("good", IP, since=EARLIER if since is LATER else LATER)
    assert routes(running("bad", IP, blocked=True, since=since), other) == {}


def test_of_two_running_vms_that_are_both_blocked_the_address_stays_blocked() -> None:
    assert set(routes(running("a", IP, blocked=True), running("b", IP, blocked=True, since=LATER))) == {IP}


def test_of_vms_that_are_down_the_last_to_run_holds_the_address() -> None:
    assert routes(down("a", IP, blocked=True), down("b", IP, since=LATER)) == {}
    assert routes(down("a", IP), down("b", IP, blocked=True, since=LATER)) == {IP: "b"}


def test_of_two_vms_that_never_ran_the_one_in_good_standing_holds_the_address() -> None:
    assert routes(down("a", IP), down("b", IP, blocked=True)) == {}
    assert routes(down("b", IP, blocked=True), down("a", IP)) == {}


def test_a_running_vm_takes_from_no_other_an_address_of_its_last_life_only() -> None:
    mover = Holder("mover", True, frozenset({IP6}), frozenset(), frozenset({IP, IP6}), EARLIER)
    assert routes(mover, running("heir", IP)) == {IP6: "mover"}


def test_a_vm_running_with_an_address_holds_it_before_one_to_which_the_admin_gave_it() -> None:
    assert routes(told("a", IP), running("b", IP, blocked=True)) == {IP: "b"}
    assert routes(told("a", IP, blocked=True), running("b", IP)) == {}
    assert routes(told("a", IP, blocked=True)) == {IP: "a"}


def test_an_address_left_out_of_a_block_is_named_with_the_vm_that_holds_it() -> None:
    found = plan([running("a", IP, blocked=True), running("b", IP)], ())
    assert found.withheld == {IP: ("a", "b")}


def test_an_address_that_several_vms_run_with_is_named_with_all_of_them() -> None:
    found = plan([running("b", IP), running("a", IP, IP6), down("c", IP6), told("d", IP6)], ())
    assert found.shared == {IP: ("a", "b")}


def test_an_address_of_a_vm_that_is_down_is_not_held_for_it() -> None:
    assert plan([down("a", IP)], ()).held == frozenset()
    assert plan([running("a", IP)], ()).held == {IP}


def test_a_protected_address_is_never_blocked_and_is_named_instead() -> None:
    found = plan([running("a", DOM0, IP, blocked=True)], [ip_network("192.0.2.0/30")])
    assert found.null_routes == {IP: "a"}
    assert found.protected == {DOM0: "a"}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"])
def test_addresses_that_belong_to_no_vm_are_always_protected(address: str) -> None:
    assert is_protected(ip_address(address), ())


def test_a_network_protects_only_addresses_of_its_own_version() -> None:
    everything6 = [ip_network("::/0")]
    assert is_protected(IP6, everything6)
    assert not is_protected(IP, everything6)


POOL = st.frozensets(st.sampled_from([ip_address(f"192.0.2.{number}") for number in range(1, 5)]))
HOLDERS = st.lists(
    st.builds(
        lambda number, blocked, live, known, since: Holder(
            f"vm{number}", blocked, live, frozenset(), live | known, since
        ),
        st.integers(0, 9),
        st.booleans(),
        POOL,
        POOL,
        st.sampled_from([EARLIER, LATER]),
    ),
    max_size=5,
    unique_by=lambda holder: holder.name,
)


@given(HOLDERS)
def test_every_null_route_is_of_a_blocked_vm_and_hits_no_running_vm_in_good_standing(
    holders: list[Holder],
) -> None:
    found = plan(holders, [ip_network("192.0.2.1/32")])
    by_name = {holder.name: holder for holder in holders}
    for address, name in found.null_routes.items():
        assert by_name[name].blocked
        assert address in by_name[name].known
        assert not any(address in holder.live for holder in holders if not holder.blocked)
    assert DOM0 not in found.null_routes
    assert not found.held & set(found.null_routes)


@given(HOLDERS)
def test_a_running_blocked_vm_is_let_through_only_if_a_running_vm_in_good_standing_has_its_address(
    holders: list[Holder],
) -> None:
    found = plan(holders, ())
    for holder in holders:
        for address in holder.live if holder.blocked else ():
            shared = any(address in other.live for other in holders if not other.blocked)
            assert (address in found.null_routes) != shared


@given(HOLDERS, st.randoms())
def test_the_order_of_the_vms_changes_no_block(holders: list[Holder], random: object) -> None:
    shuffled = list(holders)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis hands out a random.Random
    assert set(plan(holders, ()).null_routes) == set(plan(shuffled, ()).null_routes)
