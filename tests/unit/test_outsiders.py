"""Running VMs that this dom0 does not see: kept in the ledger, shown as unmetered, and judged like all VMs."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest

from tests.support.books import BOOT, add_vm
from tests.support.clock import utc
from xenbw.ledger import unmetered, vmlog
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.unmetered import Unmetered
from xenbw.model import VM, Allowance, Cause, Counters, Period, State
from xenbw.quota import as_seen, stand
from xenbw.vifs.outsiders import Outsiders
from xenbw.xen.connection import StoreError
from xenbw.xen.survey import Outside
from xenbw.xen.xenstore import Survey

NOW = utc("2026-03-20 12:00")
LATER = NOW + timedelta(seconds=20)
NOVIF = Outside(4, "novif", 0, ())
MARCH = Period(utc("2026-03-01"), utc("2026-04-01"))


@pytest.fixture
def outsiders(ledger: Ledger) -> Outsiders:
    return Outsiders(ledger, BOOT)


@pytest.fixture
def novif(ledger: Ledger, outsiders: Outsiders) -> None:
    """A domain without a vif is known."""
    outsiders.hear(Survey((NOVIF,)), NOW)
    outsiders.hear(Survey((NOVIF,)), LATER)


def told(ledger: Ledger) -> dict[str, tuple[bool, str]]:
    names = {vm.id: vm.name for vm in ledger.vms().values()}
    return {names[id_]: (one.wholly, one.reason) for id_, one in unmetered.known(ledger, BOOT).items()}


def test_a_domain_without_a_vif_is_a_vm_that_is_not_metered(ledger: Ledger, outsiders: Outsiders) -> None:
    outsiders.hear(Survey((NOVIF,)), NOW)
    assert outsiders.hear(Survey((NOVIF,)), LATER) is True
    ((name, (wholly, reason)),) = told(ledger).items()
    assert (name, wholly) == ("novif", True)
    assert "no vif in this dom0" in reason
    assert outsiders.hear(Survey((NOVIF,)), LATER) is False


def test_a_domain_that_is_being_built_is_not_reported_as_unmetered(
    ledger: Ledger, outsiders: Outsiders, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert outsiders.hear(Survey((NOVIF,)), NOW) is False
        assert outsiders.hear(Survey(()), LATER) is False
        assert outsiders.hear(Survey((NOVIF,)), LATER) is False
    assert (told(ledger), ledger.vms(), caplog.records) == ({}, {}, [])


@pytest.mark.usefixtures("novif")
def test_a_vm_without_a_vif_stays_unmetered_when_it_starts_again(ledger: Ledger, outsiders: Outsiders) -> None:
    outsiders.hear(Survey((Outside(5, "novif", 0, ()),)), LATER)
    assert told(ledger).keys() == {"novif"}


def test_the_reason_names_vif_and_driver_domain(ledger: Ledger, outsiders: Outsiders) -> None:
    outsiders.hear(
        Survey((Outside(7, "web1", 0, ((0, 5, "netdrv"), (1, 6, None))), Outside(8, "web2", 1, ((1, 5, "netdrv"),)))),
        NOW,
    )
    assert told(ledger) == {
        "web1": (True, "its vif 0 is in driver domain 5 (netdrv), its vif 1 is in driver domain 6, not in this dom0"),
        "web2": (
            False,
            "its vif 1 is in driver domain 5 (netdrv), and only what passes through this dom0 is seen",
        ),
    }


def test_of_two_domains_of_a_vm_the_one_with_a_vif_here_decides(ledger: Ledger, outsiders: Outsiders) -> None:
    seen = Outside(5, "web1", 1, ((1, 9, None),))
    for domains in ((Outside(4, "web1", 0, ()), seen), (seen, Outside(6, "web1", 0, ()))):
        outsiders.hear(Survey(domains), NOW)
        outsiders.hear(Survey(domains), LATER)
        assert told(ledger)["web1"][0] is False


def test_a_migrating_domain_is_unmetered_under_neither_name(ledger: Ledger, outsiders: Outsiders) -> None:
    moving = Outside(4, "web1", 0, (), "web1--incoming")
    for at in (NOW, LATER, LATER + timedelta(minutes=30)):
        outsiders.hear(Survey((moving,)), at)
    assert ledger.vms() == {}
    outsiders.hear(Survey((moving,)), NOW + timedelta(hours=1))
    assert told(ledger).keys() == {"web1--incoming"}


@pytest.mark.usefixtures("novif")
def test_a_vm_that_is_seen_again_or_gone_is_no_longer_unmetered(ledger: Ledger, outsiders: Outsiders) -> None:
    outsiders.hear(Survey(()), NOW)
    assert told(ledger) == {}


@pytest.mark.usefixtures("novif")
def test_unmetered_vms_of_an_earlier_boot_are_ignored(ledger: Ledger) -> None:
    assert unmetered.known(ledger, "another boot") == {}


@pytest.mark.usefixtures("novif")
def test_nothing_is_written_while_nothing_changes_not_even_by_the_next_daemon(
    ledger: Ledger, outsiders: Outsiders
) -> None:
    rev = ledger.meta("rev")
    outsiders.hear(Survey((NOVIF,)), LATER)
    Outsiders(ledger, BOOT).hear(Survey((NOVIF,)), LATER)
    assert ledger.meta("rev") == rev


@pytest.mark.usefixtures("novif")
def test_a_removed_vm_that_runs_on_is_a_new_unmetered_vm(ledger: Ledger, outsiders: Outsiders) -> None:
    old = ledger.vm_named("novif")
    assert old is not None
    vmlog.retire(ledger, old.id, NOW)
    assert outsiders.hear(Survey((NOVIF,)), LATER) is True
    assert told(ledger).keys() == {"novif"}


@pytest.mark.usefixtures("novif")
def test_while_xenstore_does_not_answer_the_list_stays_and_the_log_says_so_once(
    ledger: Ledger, outsiders: Outsiders, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            outsiders.hear(Survey((), StoreError("no answer")), NOW)
    assert told(ledger).keys() == {"novif"}
    assert [record.getMessage() for record in caplog.records] == [
        "xenstore: no answer; the list of unmetered VMs stays as it was"
    ]


# how it is shown


def standing(used: int, limit: int | None = 1000, **facts: str) -> tuple[State, State, str, Cause | None]:
    """(state, state as shown of a VM that is not seen, the reason shown, why it is blocked)."""
    vm = VM(1, "web1", NOW, added_at=NOW, **facts)  # type: ignore[arg-type]  # test shorthand
    real = stand(vm, Allowance(limit), True, Counters(used, 0), MARCH)
    shown = as_seen(real, "no vif", wholly=True)
    assert (shown.block, shown.verdict) == (real.block, real.verdict)
    return real.state, shown.state, shown.reason, shown.block


@pytest.mark.parametrize(("used", "limit"), [(0, 1000), (900, 1000), (0, None)])
def test_a_vm_that_is_not_seen_is_unmetered_whatever_was_counted(used: int, limit: int | None) -> None:
    assert standing(used, limit)[1:] == (State.UNMETERED, "no vif", None)


def test_a_vm_that_is_over_or_blocked_keeps_that_state_while_it_is_not_seen() -> None:
    for real, shown, reason, block in (standing(1001), standing(0, blocked_reason="abuse")):
        assert shown is real is not State.UNMETERED
        assert reason.endswith("; not metered: no vif")
        assert block is not None


def test_a_vm_that_is_seen_in_part_keeps_its_state_and_the_reason_says_so() -> None:
    real = stand(VM(1, "web1", NOW), Allowance(1000), True, Counters(1, 0), MARCH)
    shown = as_seen(real, "its vif 1 is elsewhere", wholly=False)
    assert shown.state is State.OK
    assert shown.reason.endswith("; not metered: its vif 1 is elsewhere")


def test_what_is_known_can_be_replaced(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    unmetered.keep(ledger, BOOT, {vm_id: Unmetered(True, "a")})
    unmetered.keep(ledger, BOOT, {vm_id: Unmetered(False, "b")})
    assert unmetered.known(ledger, BOOT) == {vm_id: Unmetered(False, "b")}
