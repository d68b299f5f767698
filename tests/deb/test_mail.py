"""The admin's mails about a block, in root's mailbox, with a mail system from Debian."""

from __future__ import annotations

import fcntl
import mailbox
import re
from collections.abc import Iterator
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

import pytest

from tests.deb import package
from tests.deb.machine import Machine
from tests.support.guest import Guest
from tests.support.pace import until

WEB = ("10.50.0.11", "fd50::11")
MAILBOX = Path("/var/mail/root")
NOTIFY = "xenbw-notify.service"


@pytest.fixture(scope="module", autouse=True)
def mail_system() -> Iterator[None]:
    """dma, which is setgid, and has a setuid helper that creates mailboxes."""
    assert not MAILBOX.exists()
    package.apt("install", *Path("/srv/packages/dma").glob("*.deb"))
    yield
    package.apt("purge", "dma")


@pytest.fixture
def web(installed: None, machine: Machine) -> Iterator[Guest]:
    """A running guest with an allowance of 1 MB, on a host that sends mail by sendmail."""
    own = Path("/etc/xenbw/xenbw.toml.d/own.toml")
    own.parent.mkdir()
    own.write_text('[host]\nname = "dom0-7"\n[mail]\nto = ["root"]\nsendmail = "/usr/sbin/sendmail"\n')
    package.run("systemctl", "reload", package.UNIT)
    guest = machine.start("web1", WEB)
    machine.add("web1", "1MB")
    yield guest
    MAILBOX.unlink(missing_ok=True)


def letters() -> list[EmailMessage]:
    """The mails in root's mailbox, oldest first."""
    if not MAILBOX.exists():
        return []
    parser = BytesParser(EmailMessage, policy=policy.default)
    with MAILBOX.open("rb") as held:
        # dma holds this lock while it writes.
        fcntl.flock(held, fcntl.LOCK_SH)
        return [parser.parsebytes(one.as_bytes()) for one in mailbox.mbox(MAILBOX)]


def test_root_gets_a_mail_about_a_block_and_its_end_from_the_hosts_mail_system(machine: Machine, web: Guest) -> None:
    machine.push_over(web, WEB)
    assert until(lambda: len(letters()) == 1, 20), package.run("journalctl", "-u", NOTIFY, "--no-pager").stdout
    (letter,) = letters()
    assert (letter["From"], letter["To"]) == ("xenbw@dom0-7", "root")
    assert letter["Subject"] == "[xenbw] web1: null-routed"
    assert letter["Auto-Submitted"] == "auto-generated"
    text = letter.get_body(("plain",)).get_content()
    # The kernel holds it to its allowance, and may have refused a frame when some bytes were left.
    assert re.match(r"web1 was null-routed: used (9\d\d KB|1\.00 MB) of 1\.00 MB \(in and out together\)", text)
    assert "Host:      dom0-7\n" in text
    assert "Addresses: 10.50.0.11, fd50::11\n" in text
    assert "To release it now: xenbw lift web1\n" in text
    machine.xenbw("lift", "web1")
    assert until(lambda: len(letters()) == 2, 20)
    assert letters()[1]["Subject"] == "[xenbw] web1: released"


def test_a_mail_that_the_mail_system_accepted_is_not_sent_again(machine: Machine, web: Guest) -> None:
    machine.push_over(web, WEB)
    assert until(lambda: len(letters()) == 1, 20)
    package.run("systemctl", "restart", package.UNIT)
    package.run("systemctl", "start", NOTIFY)
    assert package.unit("Result", name=NOTIFY) == ["success"]
    assert len(letters()) == 1
