"""Mails to a VM's tenant: his own, without the host's name, an admin's command or another VM."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.books import add_vm
from tests.support.clock import HandClock
from tests.support.console import Console
from tests.support.guarded import END, NOW, Host, MethodStandIn
from tests.support.mailserver import Mailbox, free_port, serve
from xenbw import checks
from xenbw.config import DaemonSection, HostSection, LedgerSection, MailSection, Settings
from xenbw.errors import UsageError
from xenbw.ledger import eventlog, outbox
from xenbw.ledger.ledger import Ledger
from xenbw.model import Action, Cause, Counters, State
from xenbw.tell.announcement import forecast, forecast_off
from xenbw.tell.carrier import DeliveryError
from xenbw.tell.courier import Courier
from xenbw.tell.mail import Mail

HOUR = timedelta(hours=1)
TENANT = "customer@example.com"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def port(mailbox: Mailbox) -> Iterator[int]:
    with serve(mailbox) as number:
        yield number


@pytest.fixture
def settings(tmp_path: Path, port: int) -> Settings:
    return Settings(
        host=HostSection("secret-dom0"),
        daemon=DaemonSection(run_dir=tmp_path),
        ledger=LedgerSection(path=tmp_path / "ledger.db"),
        mail=MailSection(to=("noc@example.com",), sender="Hosting <desk@example.net>", host="127.0.0.1", port=port),
    )


@pytest.fixture
def host(settings: Settings) -> Iterator[Host]:
    with closing(Ledger.open(settings.ledger.path, create=True)) as ledger:
        host = Host(ledger, settings, MethodStandIn())
        ledger.set_vm(host.web1, mail=(TENANT,))
        yield host


def send(host: Host, seconds: int = 0) -> None:
    Courier(host.settings, HandClock(host.at + timedelta(seconds=seconds))).look()


def to_tenant(mailbox: Mailbox) -> list[tuple[str, str]]:
    """(subject, text) of the mails to the tenant."""
    numbers = [number for number, to in enumerate(mailbox.recipients) if to == [TENANT]]
    return [(mailbox.read(number)["Subject"], mailbox.text(number)) for number in numbers]


def test_the_tenant_gets_a_mail_of_his_own_and_the_admin_still_gets_his(host: Host, mailbox: Mailbox) -> None:
    host.judge(900)
    send(host)
    assert mailbox.recipients == [["noc@example.com"], [TENANT]]
    assert [mailbox.read(number)["To"] for number in (0, 1)] == ["noc@example.com", TENANT]
    ((subject, text),) = to_tenant(mailbox)
    assert subject == "web1: traffic warning, 80 % used"
    assert text.startswith("web1 has used 80 % of its 1.00 KB.\n\nIt has used 900 B of 1.00 KB (in and out together)")
    assert "Host:      secret-dom0\n" in mailbox.text(0)


def test_no_mail_to_the_tenant_names_the_host_or_a_command_or_another_vm(host: Host, mailbox: Mailbox) -> None:
    add_vm(host.ledger, "other", NOW, limit_bytes=1)
    throttle = {"action": Action.THROTTLE, "rate": 10**7}
    for change, used in (({"unlimited": False}, 900), ({"limit_bytes": 1000}, 1001), (throttle, 1001)):
        host.ledger.set_vm(host.web1, **change)
        host.usage[host.web1] = Counters(used, 0)
        host.judge(used)
    host.new_period()
    host.judge(0)
    send(host, 60)
    mails = to_tenant(mailbox)
    assert [subject for subject, _ in mails] == [
        "web1: traffic warning, 80 % used",
        "web1: blocked",
        "web1: released, and throttled",
        "web1: no longer throttled",
    ]
    for number, recipients in enumerate(mailbox.recipients):
        if recipients == [TENANT]:
            raw = mailbox.letters[number]
            assert not any(word in raw for word in (b"secret-dom0", b"noc@", b"xenbw lift", b"xenbw-addvm", b"other"))


def test_the_mails_of_many_tenants_never_go_together(host: Host, mailbox: Mailbox) -> None:
    for number in range(30):
        vm_id = add_vm(host.ledger, f"vm{number}", NOW, limit_bytes=1000, mail=(f"c{number}@example.com",))
        host.usage[vm_id] = Counters(900, 0)
    host.judge()
    courier = Courier(host.settings, HandClock(host.at + timedelta(seconds=60)))
    while courier.look():
        pass
    assert sorted(map(tuple, mailbox.recipients)) == sorted(
        [("noc@example.com",), *((f"c{number}@example.com",) for number in range(30))]
    )


def test_a_server_that_is_away_is_tried_once_for_all_tenants(host: Host, settings: Settings) -> None:
    for number in range(10):
        vm_id = add_vm(host.ledger, f"vm{number}", NOW, limit_bytes=1000, mail=(f"c{number}@example.com",))
        host.usage[vm_id] = Counters(900, 0)
    host.judge()
    object.__setattr__(settings.mail, "port", free_port())
    Courier(settings, HandClock(host.at + timedelta(seconds=60))).look()
    tries = host.ledger.rows(
        "SELECT count(DISTINCT letter) + sum(letter IS NULL AND tries > 0) FROM outbox WHERE tries"
    )
    assert tries[0][0] == 1
    assert not outbox.due(host.ledger, host.at + HOUR / 60, host.at + HOUR)


def test_an_address_at_which_the_server_falls_silent_does_not_keep_back_the_other_mails(
    host: Host, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, ...]] = []

    def send(mail: Mail, *_: object) -> dict[str, str]:
        to = mail._section.to
        if to == (TENANT,):
            raise DeliveryError("timed out", unreachable=True)
        sent.append(to)
        return {}

    monkeypatch.setattr(Mail, "send", send)
    vm_id = add_vm(host.ledger, "vm2", NOW, limit_bytes=1000, mail=("b@example.com",))
    host.usage[vm_id] = Counters(900, 0)
    outbox.queue(host.ledger, host.at, "s", "b", address=TENANT)
    host.judge(900)
    clock = HandClock(host.at)
    courier = Courier(settings, clock)
    for _ in range(3):
        courier.look()
        clock.go(seconds=3700)
    assert ("b@example.com",) in sent
    assert ("noc@example.com",) in sent


def test_an_address_that_is_refused_for_good_is_an_event(host: Host, mailbox: Mailbox) -> None:
    mailbox.at_recipient[TENANT] = "550 no such user"
    host.judge(900)
    send(host)
    (_, kind, text) = eventlog.newest(host.ledger, 1)[0]
    assert kind == "mail-failed"
    assert "web1: traffic warning, 80 % used" in text
    assert outbox.waiting(host.ledger) == 0


def test_an_address_in_the_ledger_that_no_mail_can_have_is_an_event_and_the_admin_still_gets_his(
    host: Host, mailbox: Mailbox
) -> None:
    host.ledger.set_vm(host.web1, mail=("=?utf-7?q?+2AA-?=@example.com",))
    host.judge(900)
    send(host)
    (_, kind, text) = eventlog.newest(host.ledger, 1)[0]
    assert kind == "mail-failed"
    assert text.startswith("mail 'web1: traffic warning, 80 % used' was given up: ")
    assert text.endswith("'=?utf-7?q?+2AA-?=@example.com': not a mail address")
    assert mailbox.recipients == [["noc@example.com"]]
    assert outbox.waiting(host.ledger) == 0


def test_the_tenant_is_told_of_an_admin_s_block(host: Host, mailbox: Mailbox) -> None:
    host.ledger.set_vm(host.web1, blocked_reason="unpaid")
    host.judge(0)
    assert host.roster.entries[host.web1].vm.state is State.BLOCKED
    assert host.ledger.active_blocks()[host.web1].cause is Cause.ADMIN
    send(host)
    ((subject, text),) = to_tenant(mailbox)
    assert subject == "web1: blocked"
    assert "It stays blocked until it is lifted." in text


def test_the_tenant_is_told_of_a_forecast_too(host: Host) -> None:
    host.judge(0)
    case = host.judging.case(host.roster.entries[host.web1], None, NOW)
    for told in (forecast(case, END, None), forecast_off(case, END)):
        assert told.copy is not None
        assert told.copy.to == TENANT
        assert told.copy.subject.startswith("web1: ")
        assert "secret-dom0" not in told.copy.body + told.copy.document


@pytest.mark.parametrize(
    "value", [["a"], ["A <a@b>"], ["a b@c"], ["a@b\n"], [], "a@b", [1], ["a@b"] * 11, [f"{'a' * 250}@bcde"]]
)
def test_an_address_with_a_name_or_a_space_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        checks.tenant_addresses(value)


def test_addvm_sets_shows_and_removes_the_tenant_s_addresses(console: Console) -> None:
    done = console.run("addvm", "web1", "--force", "--limit", "1GB", "--mail", TENANT, "b@example.com")
    assert f"web1: added, limit 1.00 GB, mail {TENANT} b@example.com\n" in done.stdout
    assert re.search(rf"^mails also to +{TENANT} b@example.com$", console.run("show", "web1").stdout, re.MULTILINE)
    done = console.run("addvm", "web1", "--mail", "not an address")
    assert (done.returncode, done.stdout) == (2, "")
    assert "customer@example.com" in done.stderr
    console.run("addvm", "web1", "--mail", "none")
    assert "mails also to" not in console.run("show", "web1").stdout


def test_addvm_says_that_no_mail_goes_to_a_tenant_while_no_admin_is_configured(console: Console) -> None:
    done = console.run("addvm", "web1", "--force", "--limit", "1GB", "--mail", TENANT)
    assert "[mail] to" in done.stderr
