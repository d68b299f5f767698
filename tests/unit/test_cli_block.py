"""block, lift and rmvm: written to the ledger, and held at once by the daemon that is asked to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from tests.support.console import Console, StandIn
from xenbw.ledger import usagelog
from xenbw.model import Cause, State
from xenbw.quota import period_at

END = period_at(datetime.now(UTC), 1, ZoneInfo("UTC")).end
ENDS = END.strftime("%Y-%m-%d 00:00 UTC")


@pytest.fixture(autouse=True)
def daemon(console: Console) -> Iterator[StandIn]:
    with StandIn(console) as running:
        console.run("addvm", "web1", "--limit", "1GB", "--ip", "192.0.2.9", "2001:db8::9")
        running.asked.clear()
        yield running


@pytest.fixture
def over(console: Console) -> None:
    """web1 has used more than its gigabyte, and is blocked for it."""
    console.uses("web1", 10**9, 1)
    console.run("addvm", "web1", "--warn", "90")
    assert console.vm("web1").state is State.OVER


def blocked_for(console: Console) -> Cause | None:
    with console.ledger() as ledger:
        return next((block.cause for block in ledger.active_blocks().values()), None)


def test_block_null_routes_the_vm_s_addresses(console: Console, daemon: StandIn) -> None:
    assert console.done("block", "web1") == "web1: blocked, null-routed: 192.0.2.9, 2001:db8::9\n"
    assert daemon.asked == ["sync", "status"]
    assert console.vm("web1").blocked_reason == "blocked by the admin"
    assert blocked_for(console) is Cause.ADMIN


def test_a_reason_is_kept_on_one_line_and_cannot_move_a_cursor(console: Console) -> None:
    console.done("block", "web1", "--reason", " spam\nSubject: x\x1b[2J ")
    assert console.vm("web1").blocked_reason == r"spam\nSubject: x\x1b[2J"


def test_a_vm_without_a_known_address_is_said_not_to_be_null_routed(console: Console) -> None:
    console.runs("passing by")
    assert console.done("block", "passing by") == (
        "passing by: blocked, but nothing is null-routed: the VM has no known address that may be blocked\n"
    )


def test_problems_of_a_block_are_printed(console: Console, daemon: StandIn) -> None:
    daemon.problems.append("web1: THE BLOCK DOES NOT HOLD")
    result = console.run("block", "web1")
    assert result.stdout == "web1: blocked, to be null-routed, see the problems: 192.0.2.9, 2001:db8::9\n"
    assert result.stderr == "! web1: THE BLOCK DOES NOT HOLD\n"


def test_lift_ends_a_block_by_the_admin(console: Console) -> None:
    console.done("block", "web1")
    assert console.done("lift", "web1") == "web1: lifted\n"
    assert (console.vm("web1").blocked_reason, console.vm("web1").lifted_until) == (None, None)
    assert blocked_for(console) is None


@pytest.mark.usefixtures("over")
def test_lift_lets_a_vm_over_its_allowance_pass_until_its_period_ends(console: Console) -> None:
    assert blocked_for(console) is Cause.QUOTA
    assert console.done("lift", "web1") == f"web1: lifted until its period ends, {ENDS}\n"
    assert (console.vm("web1").lifted_until, console.vm("web1").state) == (END, State.EXEMPT)
    assert blocked_for(console) is None


@pytest.mark.usefixtures("over")
def test_lift_of_a_vm_blocked_by_the_admin_and_over_its_allowance_lifts_both(console: Console) -> None:
    console.done("block", "web1")
    assert console.done("lift", "web1") == f"web1: lifted until its period ends, {ENDS}\n"
    assert blocked_for(console) is None


@pytest.mark.usefixtures("over")
def test_lift_of_a_vm_whose_policy_is_to_warn_gives_no_exemption(console: Console) -> None:
    console.done("addvm", "web1", "--action", "warn")
    console.done("block", "web1")
    assert console.done("lift", "web1") == "web1: lifted\n"
    assert console.vm("web1").lifted_until is None


def test_lift_of_a_vm_that_is_not_blocked_says_so(console: Console, daemon: StandIn) -> None:
    assert console.done("lift", "web1") == ("web1: not blocked (ok: used 0 B of 1.00 GB (in and out together))\n")
    assert daemon.asked == []


def test_rmvm_retires_the_row_and_a_later_vm_of_that_name_starts_clean(console: Console) -> None:
    console.uses("web1", 10**9, 1)
    old = console.vm("web1").id
    assert console.done("rmvm", "web1", "--yes") == "web1: removed\n"
    with console.ledger() as ledger:
        assert ledger.vm_named("web1") is None
        assert len(usagelog.periods(ledger, old)) == 1
    console.run("addvm", "web1", "--limit", "1GB")
    assert console.vm("web1").id != old
    assert '"used_bytes": 0' in console.done("show", "web1", "--json")


@pytest.mark.usefixtures("over")
def test_rmvm_ends_the_vm_s_block(console: Console) -> None:
    console.done("rmvm", "web1", "--yes")
    assert blocked_for(console) is None


def test_rmvm_of_a_running_vm_says_that_it_goes_on_being_metered(console: Console) -> None:
    console.runs("web1")
    assert console.done("rmvm", "web1", "--yes") == (
        "web1: removed; it runs, and is still metered as a VM that nobody added\n"
    )


def test_off_a_terminal_rmvm_needs_yes(console: Console) -> None:
    result = console.run("rmvm", "web1")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == ("xenbw: web1: not removed: no terminal to ask on (--yes removes it without asking)\n")
    assert console.vm("web1")
