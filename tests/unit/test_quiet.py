"""Quiet hours: what is told in them, and what comes when they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.support.clock import HandClock, utc
from tests.support.mailserver import Mailbox, serve
from tests.support.program import sendmail
from xenbw import checks
from xenbw.config import CommandSection, DaemonSection, HostSection, LedgerSection, MailSection, PeriodSection, Settings
from xenbw.errors import UsageError
from xenbw.ledger import outbox
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.outbox import Channel
from xenbw.model import Quiet
from xenbw.tell import carriers
from xenbw.tell.bell import path_in
from xenbw.tell.courier import Courier
from xenbw.tell.delivery import Delivery

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Quiet(time(22), time(7))
EVENING = utc("2026-03-20 21:30")  # 22:30 in Berlin


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(tmp_path / "ledger.db", create=True)) as opened:
        yield opened


@pytest.fixture
def clock() -> HandClock:
    return HandClock(EVENING)


def settings(ledger: Ledger, port: int = 25, **sections: CommandSection) -> Settings:
    return Settings(
        host=HostSection("dom0-7"),
        daemon=DaemonSection(run_dir=ledger.path.parent),
        ledger=LedgerSection(path=ledger.path),
        period=PeriodSection(timezone=BERLIN),
        mail=MailSection(to=("noc@example.com",), host="127.0.0.1", port=port, quiet=NIGHT),
        **sections,
    )


def queue(ledger: Ledger, at: datetime, kind: str, channel: Channel = Channel.MAIL, address: str = "") -> None:
    facts = json.dumps({"kind": kind, "vm": "web1", "reason": "so it is", "addresses": ["192.0.2.1"]})
    body = "text\n" if channel is Channel.MAIL else facts
    outbox.queue(ledger, at, f"web1: {kind}", body, channel, address, kind=kind, facts=facts)


def subjects(mailbox: Mailbox) -> list[str]:
    return [mailbox.read(number)["Subject"] for number in range(len(mailbox.letters))]


@pytest.mark.parametrize(
    ("moment", "covered"),
    [
        ("2026-03-20 20:59", False),  # 21:59 in Berlin
        ("2026-03-20 21:00", True),
        ("2026-03-21 00:00", True),
        ("2026-03-21 05:59", True),
        ("2026-03-21 06:00", False),
        # The night in which summer time begins, and the one in which it ends.
        ("2026-03-28 20:59", False),
        ("2026-03-28 21:00", True),
        ("2026-03-29 04:59", True),
        ("2026-03-29 05:00", False),
        ("2026-10-24 19:59", False),
        ("2026-10-24 20:00", True),
        ("2026-10-25 05:59", True),
        ("2026-10-25 06:00", False),
    ],
)
def test_quiet_hours_follow_the_wall_clock_over_midnight_and_summer_time(moment: str, covered: bool) -> None:
    assert NIGHT.covers(utc(moment), BERLIN) is covered


def test_quiet_hours_within_a_day() -> None:
    noon = Quiet(time(12), time(13, 30))
    hours = [utc(f"2026-03-20 {hour}") for hour in ("10:59", "11:00", "12:29", "12:30", "23:00")]
    assert [noon.covers(hour, BERLIN) for hour in hours] == [False, True, True, False, False]


@pytest.mark.parametrize(
    "value", ["22-7", "22:00", "24:00-07:00", "07:00-07:00", "22:00 - 07:00", "٢٢:00-07:00", 22, None]
)
def test_any_other_value_is_a_mistake(value: object) -> None:
    with pytest.raises(UsageError):
        checks.quiet(value)


def test_in_quiet_hours_only_blocks_are_told_and_the_rest_comes_as_one_mail_at_their_end(
    ledger: Ledger, clock: HandClock
) -> None:
    mailbox = Mailbox()
    with serve(mailbox) as port:
        courier = Courier(settings(ledger, port), clock)
        for kind in ("warned", "null-routed", "released"):
            queue(ledger, clock.wall, kind)
        courier.look()
        assert subjects(mailbox) == ["web1: null-routed"]
        assert outbox.waiting(ledger) == 2
        clock.go(hours=8, minutes=29)
        courier.look()
        assert len(mailbox.letters) == 1
        clock.go(minutes=1)
        courier.look()
    assert subjects(mailbox)[1:] == ["[xenbw] dom0-7: 2 messages: 1 warned, 1 released"]
    assert outbox.waiting(ledger) == 0


def test_one_message_that_waited_stays_a_mail_of_its_own_and_a_tenant_s_never_go_together(
    ledger: Ledger, clock: HandClock
) -> None:
    mailbox = Mailbox()
    with serve(mailbox) as port:
        courier = Courier(settings(ledger, port), clock)
        queue(ledger, clock.wall, "warned")
        for kind in ("warned", "released", "null-routed"):
            queue(ledger, clock.wall, kind, address="customer@example.com")
        courier.look()
        assert subjects(mailbox) == ["web1: null-routed"]
        clock.go(hours=9)
        courier.look()
    assert subjects(mailbox)[1:] == ["web1: warned", "web1: warned", "web1: released"]


def test_a_message_of_an_earlier_version_does_not_wait(ledger: Ledger, clock: HandClock) -> None:
    mailbox = Mailbox()
    outbox.queue(ledger, clock.wall, "old", "text")
    with serve(mailbox) as port:
        Courier(settings(ledger, port), clock).look()
    assert subjects(mailbox) == ["old"]


def test_a_command_has_quiet_hours_of_its_own(ledger: Ledger, clock: HandClock, tmp_path: Path) -> None:
    program = sendmail(tmp_path)
    quiet = settings(ledger, command=CommandSection(run=(str(program),), quiet=NIGHT))
    courier, service = Courier(quiet, clock), Delivery(ledger.path, clock, carriers.by_service(quiet))
    queue(ledger, clock.wall, "warned", Channel.COMMAND)
    courier.look()
    service.look()
    assert not path_in(tmp_path).exists()
    queue(ledger, clock.wall, "null-routed", Channel.COMMAND)
    courier.look()
    service.look()
    assert path_in(tmp_path).exists()
    assert json.loads((tmp_path / "1.letter").read_bytes())["kind"] == "null-routed"
    clock.go(hours=9)
    service.look()
    assert json.loads((tmp_path / "2.letter").read_bytes())["kind"] == "warned"


def test_without_quiet_hours_nothing_waits(ledger: Ledger, clock: HandClock, tmp_path: Path) -> None:
    program = sendmail(tmp_path)
    loud = settings(ledger, command=CommandSection(run=(str(program),)))
    queue(ledger, clock.wall, "warned", Channel.COMMAND)
    clock.go(minutes=1)
    Delivery(ledger.path, clock, carriers.by_service(loud)).look()
    assert outbox.waiting(ledger) == 0
    assert clock.wall - EVENING == timedelta(minutes=1)
