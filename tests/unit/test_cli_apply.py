"""A change holds at once, whoever is there to make it hold."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from tests.support.clock import HandClock, answering
from tests.support.console import Console
from xenbw import config
from xenbw.accounting import Pending, Share
from xenbw.blocks.block import Outcome, Wanted
from xenbw.cli.apply import apply
from xenbw.cli.command import Context
from xenbw.clock import Moment, SystemClock, boot_id
from xenbw.ledger import blocklog, usagelog
from xenbw.ledger.ledger import Alive, Ledger
from xenbw.model import Action, Cause, State
from xenbw.rundir.control import socket_path
from xenbw.runner import run


class Recorder:
    """A method that remembers what it was to block."""

    name = "recorder"

    def __init__(self, unusable: str | None = None) -> None:
        self.blocked: list[str] = []
        self._unusable = unusable

    def probe(self) -> str | None:
        return self._unusable

    def apply(self, wanted: Wanted) -> Outcome:
        self.blocked = [str(address) for address in wanted.null_routes]
        return Outcome()


@pytest.fixture
def context(console: Console) -> Context:
    return Context(config.load(console.config), run, SystemClock())


@pytest.fixture
def ledger(console: Console) -> Iterator[Ledger]:
    """web1 is to be blocked by the admin; nobody has done anything about it yet."""
    with console.ledger() as opened:
        vm = opened.meet("web1", datetime.now(UTC))
        opened.set_vm(vm.id, blocked_reason="abuse", ips=(ip_address("192.0.2.9"),))
        yield opened


def test_without_a_daemon_the_change_is_judged_and_enforced_at_once(
    ledger: Ledger, context: Context, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    method = Recorder()
    assert apply(ledger, context, lambda _: [method])
    assert method.blocked == ["192.0.2.9"]
    assert console.vm("web1").state is State.BLOCKED
    assert "vm\tweb1\t192.0.2.9\n" in (console.run_dir / "over").read_text()
    assert capsys.readouterr().err == (
        "xenbwd is not running: this holds, but nothing is metered until it runs (systemctl start xenbwd)\n"
    )


def test_addresses_that_this_host_needs_are_not_blocked(
    ledger: Ledger,
    context: Context,
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.script("ip", """[ "$*" = "-json route" ] && echo '[{"gateway": "192.0.2.9"}]'\nexit 0\n""")
    monkeypatch.setenv("PATH", console.env["PATH"])
    method = Recorder()
    assert not apply(ledger, context, lambda _: [method])
    assert method.blocked == []
    assert "! web1: 192.0.2.9 is protected and is not blocked\n" in capsys.readouterr().err


def test_a_method_that_cannot_serve_is_left_out_and_told(
    ledger: Ledger, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, works = Recorder("no such table"), Recorder()
    broken.name = "broken"
    assert not apply(ledger, context, lambda _: [broken, works])
    assert (broken.blocked, works.blocked) == ([], ["192.0.2.9"])
    assert "! no such table\n" in capsys.readouterr().err


def test_without_a_daemon_a_period_that_ended_is_judged_as_ended_and_left_for_the_daemon_to_divide(
    ledger: Ledger, context: Context, console: Console
) -> None:
    vm = ledger.meet("web2", datetime.now(UTC))
    old = datetime(2020, 1, 1, tzinfo=UTC)
    ledger.set_vm(vm.id, added_at=old, period_start=old, period_rule="1@UTC")
    ledger.set_vm(vm.id, limit_bytes=1)
    blocklog.block(ledger, vm.id, Cause.QUOTA, "over in its last period", old, datetime(2020, 2, 1, tzinfo=UTC))
    apply(ledger, context, lambda _: [])
    assert vm.id not in ledger.active_blocks()
    assert console.vm("web2").period_start == old


def test_while_the_clock_is_not_trusted_time_goes_on_from_the_last_commit(ledger: Ledger, context: Context) -> None:
    committed = datetime(2026, 11, 20, tzinfo=UTC)
    usagelog.commit(ledger, Pending((), ()), Alive(committed, 1000.0, boot_id()))
    after_a_jump = HandClock(datetime(2031, 1, 1, tzinfo=UTC), 1060.0)
    patient = replace(context.settings, period=replace(context.settings.period, clock_wait=900))
    moment = Context(patient, answering("no"), after_a_jump).moment(ledger)
    assert moment == Moment(committed + timedelta(seconds=60), trusted=False)


def test_a_clock_that_was_set_is_believed_where_it_is_synchronised(ledger: Ledger, context: Context) -> None:
    committed, now = datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)
    usagelog.commit(ledger, Pending((), ()), Alive(committed, 1000.0, boot_id()))
    patient = replace(context.settings, period=replace(context.settings.period, clock_wait=900))
    moment = Context(patient, answering("yes"), HandClock(now, 1060.0)).moment(ledger)
    assert moment == Moment(now, trusted=True)


def test_a_daemon_that_does_not_answer_is_told_and_the_change_stays_written(
    ledger: Ledger, context: Context, console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    method = Recorder()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(socket_path(console.run_dir)))
        door.listen()
        dying = threading.Thread(target=lambda: door.accept()[0].close())
        dying.start()
        assert not apply(ledger, context, lambda _: [method])
        dying.join()
    assert method.blocked == []
    assert console.vm("web1").blocked_reason == "abuse"
    assert capsys.readouterr().err == (
        "! xenbwd does not answer: the change is written and holds once xenbwd reads it (systemctl status xenbwd)\n"
    )


@pytest.fixture
def throttled(ledger: Ledger) -> None:
    """web2 has used more than its limit, and its action is to throttle."""
    now = datetime.now(UTC)
    vm = ledger.meet("web2", now)
    hour = now.replace(minute=0, second=0, microsecond=0)
    start = hour.replace(day=1, hour=0)
    ledger.set_vm(vm.id, added_at=start, limit_bytes=1, action=Action.THROTTLE, rate=10**6)
    ledger.set_vm(vm.id, period_start=start, period_rule="1@UTC")
    share = Share(start, hour, 1000, 0, 0)
    usagelog.commit(ledger, Pending((), ((vm.id, share),)), Alive(now, 1000.0, boot_id()))


def unusable(name: str, reason: str) -> Recorder:
    method = Recorder(reason)
    method.name = name
    return method


def test_without_a_daemon_it_is_told_in_one_line_that_a_vm_cannot_be_throttled(
    ledger: Ledger, context: Context, console: Console, throttled: None, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger.set_vm(console.vm("web1").id, blocked_reason=None)
    others = unusable("seal", "there is no seal")
    assert not apply(ledger, context, lambda _: [others, unusable("throttle", "VMs cannot be throttled on this host")])
    assert console.vm("web2").state is State.THROTTLED
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("!")] == ["! VMs cannot be throttled on this host"]


def test_without_a_daemon_a_throttle_that_no_vm_needs_is_not_mentioned(
    ledger: Ledger, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    assert apply(ledger, context, lambda _: [unusable("throttle", "VMs cannot be throttled on this host"), Recorder()])
    assert "throttled" not in capsys.readouterr().err


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_without_a_daemon_block_puts_real_null_routes_and_lift_takes_them_away(console: Console) -> None:
    steps = """
        xenbw() { "$0" -m xenbw.cli.main "$@" 2>/dev/null; }
        xenbw addvm web1 --limit 1 --ip 192.0.2.9 2001:db8::9
        xenbw block web1
        iptables-legacy -S XENBW
        ip6tables-legacy -S FORWARD
        xenbw lift web1
        iptables-legacy -S
    """
    done = subprocess.run(
        ["unshare", "--net", "sh", "-euc", steps, sys.executable],
        capture_output=True,
        text=True,
        env=console.env,
        check=True,
    )
    blocked, lifted = done.stdout.split("web1: lifted\n")
    assert "-A XENBW -d 192.0.2.9/32" in blocked
    assert "-A FORWARD -j XENBW" in blocked
    assert "XENBW" not in lifted
