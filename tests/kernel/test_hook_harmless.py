"""The hook never harms a boot: whatever is broken, the guest starts, in time, with Debian's unmodified vif scripts."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

from tests.support.hooked import blocked_vm, live, pending, succeeded
from tests.support.host import Host
from tests.support.pace import at_last, busy, until, within
from xenbw.ledger.ledger import Ledger, to_text

pytestmark = pytest.mark.kernel


def broken(host: Host, name: str, text: str) -> None:
    path = host.directory / name
    path.write_text(text)
    path.chmod(0o755)
    host.hook_env["XENBW_HOOK"] = str(path)


@pytest.mark.parametrize(
    "text",
    [
        "#!/no/such/python\n",
        "#!/usr/bin/python3\nimport no_such_module\n",
        "#!/bin/sh\necho noise; echo noise >&2; exit 3\n",
        "#!/bin/sh\nkill -9 $$\n",
        "#!/bin/sh\nkill -9 $PPID\n",
        "#!/bin/sh\nkill -9 -$(ps -o pgid= $$ | tr -d ' ')\n",
        "\x00\x01garbage",
    ],
    ids=["no Python", "broken package", "noise and failure", "killed", "parent killed", "group killed", "garbage"],
)
def test_a_vm_boots_with_a_broken_hook_program(host: Host, text: str) -> None:
    broken(host, "program", text)
    guest = host.start("web1")
    assert succeeded(guest)
    assert guest.reaches("10.50.0.2")
    guest.stop()
    assert succeeded(guest)


def test_a_vm_boots_with_a_missing_hook_program(host: Host) -> None:
    host.hook_env["XENBW_HOOK"] = "/nonexistent"
    guest = host.start("web1")
    assert succeeded(guest)
    assert guest.reaches("10.50.0.2")


def test_a_hook_program_that_hangs_is_killed_at_the_limit_with_its_children(host: Host) -> None:
    mark = host.directory / "mark"
    broken(host, "program", f"#!/bin/sh\n(sleep 1; touch {mark}) &\nsleep 3600\n")
    host.hook_env["XENBW_HOOK_TIMEOUT"] = "0.3"
    guest = host.start("web1")
    assert succeeded(guest)
    assert guest.scripts[0].seconds < busy(3)
    assert not within(mark.exists, 1.5)


def test_a_remaining_child_process_does_not_delay_the_boot(host: Host) -> None:
    broken(host, "program", "#!/bin/sh\nsetsid sleep 3600 &\n")
    host.hook_env["XENBW_HOOK_TIMEOUT"] = "0.5"
    guest = host.start("web1")
    assert succeeded(guest)
    assert guest.scripts[0].seconds < busy(3)


@pytest.mark.parametrize("limit", ["", "soon", "1.2.3", "-1", ".", "$(reboot)"])
def test_an_invalid_time_limit_falls_back_to_two_seconds(host: Host, limit: str) -> None:
    host.ledger()
    host.hook_env["XENBW_HOOK_TIMEOUT"] = limit
    guest = host.start("web1")
    assert succeeded(guest)
    assert len(live(host)) == 1


def test_with_a_missing_ledger_the_hook_leaves_a_note_for_the_daemon(host: Host) -> None:
    guest = host.start("web1")
    assert succeeded(guest)
    assert len(pending(host)) == 1
    assert not host.ledger_path.exists()


def test_the_hook_waits_half_a_second_at_most_for_a_locked_ledger(host: Host) -> None:
    with host.ledger().transaction():
        guest = host.start("web1")
    assert succeeded(guest)
    assert guest.scripts[0].seconds < busy(2)
    assert len(pending(host)) == 1


def test_with_a_full_disk_the_hook_leaves_a_note_for_the_daemon(host: Host) -> None:
    host.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(host.state)], check=True)
    # The test sees an empty folder here: the mount is in dom0's namespace only.
    assert host.xenbw("addvm", "web1", "--limit", "1GB", "--force").returncode == 0
    host.run(["dd", "if=/dev/zero", f"of={host.state}/filler", "bs=4k"])
    guest = host.start("web1")
    assert succeeded(guest)
    assert len(pending(host)) == 1


@pytest.mark.parametrize("locked", [False, True])
def test_with_a_full_run_folder_the_hook_frees_the_address_of_a_vm_in_good_standing(host: Host, locked: bool) -> None:
    host.run(["mkdir", "-p", str(host.run_dir)], check=True)
    host.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(host.run_dir)], check=True)
    host.add("debtor", blocked_reason="test")
    host.start("debtor", ("10.50.0.11",)).stop()
    # It applies the block, and writes the file for the hook.
    host.xenbw("addvm", "heir", "--limit", "1GB", "--force")
    assert host.blocked("10.50.0.11")
    host.run(["dd", "if=/dev/zero", f"of={host.run_dir}/filler", "bs=4k"])
    with ExitStack() as stack:
        if locked:
            stack.enter_context(host.ledger().transaction())
        heir = host.start("heir", ("10.50.0.11",))
    assert succeeded(heir)
    assert not host.blocked("10.50.0.11")
    assert heir.reaches("10.50.0.2")
    assert [binding.ips != () for binding in live(host)] == [True] * (not locked)
    assert host.run(["ls", f"{host.run_dir}/pending"]).stdout == ""


def test_with_a_full_run_folder_a_blocked_vm_is_dropped_by_tc_and_released_later(host: Host) -> None:
    host.run(["mkdir", "-p", str(host.run_dir)], check=True)
    host.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(host.run_dir)], check=True)
    host.add("debtor", blocked_reason="test")
    host.xenbw("addvm", "other", "--limit", "1GB", "--force")  # which applies the block
    host.run(["dd", "if=/dev/zero", f"of={host.run_dir}/filler", "bs=4k"])
    debtor = host.start("debtor")
    assert succeeded(debtor)
    assert host.drops(debtor.interface)
    host.run(["rm", f"{host.run_dir}/filler"], check=True)
    host.xenbw("lift", "debtor")
    assert debtor.reaches("10.50.0.2")


def test_with_a_read_only_disk_the_hook_leaves_a_note_for_the_daemon(host: Host) -> None:
    blocked_vm(host, "web1")
    host.run(["mount", "--bind", str(host.state), str(host.state)], check=True)
    host.run(["mount", "-o", "remount,ro,bind", str(host.state)], check=True)
    guest = host.start("web1")
    assert succeeded(guest)
    assert len(pending(host)) == 1


def test_the_daemon_records_what_a_hook_could_not_write(host: Host) -> None:
    guest = host.start("sp ace:col")
    guest.send(100_000)
    assert len(pending(host)) == 1
    counted = host.quiet(guest)
    host.start_daemon()
    assert until(lambda: not pending(host))
    assert at_last(lambda: host.usage("sp ace:col"), counted) == counted


def test_a_hook_does_not_wait_for_a_busy_daemon(running: Host) -> None:
    guests = [running.start(f"web{n}") for n in range(6)]
    assert all(succeeded(guest) for guest in guests)
    assert pending(running) == []
    assert [binding.end_reason for binding in live(running)] == [None] * 6


def test_the_hook_and_the_ledger_write_times_in_the_same_form() -> None:
    from xenbw.ledger.bindings import stamp

    moment = datetime(2026, 3, 29, 1, 2, 3, 456789, tzinfo=UTC)
    assert stamp(moment.timestamp()) == to_text(moment)
    assert stamp(0) == to_text(datetime.fromtimestamp(0, UTC))


def test_the_ledger_may_be_readable_by_root_only(host: Host) -> None:
    host.ledger()
    assert host.ledger_path.stat().st_mode & 0o007 == 0
    assert isinstance(host.ledger(), Ledger)
