"""A guest is saved and restored, and migrated; another guest is renamed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig import outside, package, shell
from rig.guest import Guest, Usage
from rig.pace import PATIENCE, until
from rig.park import Pair

_SAVED = Path("/var/tmp/web1.save")


@dataclass(frozen=True)
class Renamed:
    """A guest under its new name: its old name, the usage under the old name, and its card's counters at that time."""

    guest: Guest
    old_name: str
    before: Usage
    counted: Usage


@pytest.fixture(scope="module", autouse=True)
def renamed(pair: Pair) -> Iterator[Renamed]:
    """db1 is renamed, and uses the network. xenbw notices that within a minute, so the other scenario comes first."""
    guest, old_name = pair.db, pair.db.name
    package.settled(guest)
    before = until(lambda: _at_rest(guest))
    assert before is not None, "something comes to it all the time"
    guest.name = "db1-new"
    shell.run("xl", "rename", old_name, guest.name)
    guest.download(1)
    yield before
    shell.run("xl", "rename", guest.name, old_name)
    guest.name = old_name


def _at_rest(guest: Guest) -> Renamed | None:
    """The usage under the guest's present name, and its card's counters at the same moment; None if packets passed in
    between."""
    counted = guest.counters()
    before = package.passed(guest.name)
    return Renamed(guest, guest.name, before, counted) if guest.counters() == counted else None


def _restore() -> None:
    shell.run("xl", "restore", str(_SAVED))


def _migrate() -> None:
    """Receive a migrating guest. The sender is simulated by a guest's saved state and the message that ends its part
    (xen tools/xl/xl.h): a PV guest cannot be sent while it runs, since Debian's Xen is built without the shadow paging
    that finds the pages it writes meanwhile."""
    with _SAVED.open("ab") as stream:
        stream.write(b"domain is yours, you are cleared to unpause\0")
    with _SAVED.open("rb") as stream:
        subprocess.run(["xl", "migrate-receive"], stdin=stream, capture_output=True, check=True, timeout=PATIENCE)


@pytest.mark.parametrize("daemon", ["running", "dead"])
@pytest.mark.parametrize("move", [_restore, _migrate])
def test_a_guest_over_its_allowance_is_blocked_from_its_first_packet_after_it_arrives(
    web: Guest, move: Callable[[], None], daemon: str
) -> None:
    before, domid = package.usage("web1"), web.domid
    package.send_over("web1")
    web.run("ping -i 0.2 10.77.0.2 >/dev/null 2>&1 & ping -i 0.2 fd77::2 >/dev/null 2>&1 &")
    if daemon == "dead":
        package.stop_daemon()
    try:
        since = outside.mark()
        shell.run("xl", "save", "web1", str(_SAVED))
        move()
        web.wait(other_than=domid)
        # The guest goes on pinging.
        assert web.run("sleep 3; killall ping").status == 0
        assert outside.frames(since, web) == []
        assert web.silent("10.77.0.1", "10.77.0.2", "fd77::2")
    finally:
        _SAVED.unlink(missing_ok=True)
        package.start_daemon()
    assert package.usage("web1").in_bytes >= before.in_bytes
    package.release("web1")
    assert web.pings("10.77.0.2")


def test_usage_goes_on_under_the_new_name_and_no_byte_counts_twice(renamed: Renamed) -> None:
    guest = renamed.guest
    assert until(lambda: guest.name in package.usages()), "the new name is not noticed"
    guest.download(1)

    def added_up() -> bool:
        passed = package.passed(renamed.old_name) + package.passed(guest.name)
        return passed - renamed.before == guest.counters() - renamed.counted

    assert until(added_up)
    assert package.usage(guest.name).in_bytes > 1_000_000
