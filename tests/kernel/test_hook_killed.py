"""Hooks are killed while no daemon runs: the bytes of their vifs are charged to the VM, or reported as lost."""

from __future__ import annotations

import signal

import pytest

from tests.support.dom0 import BRIDGE
from tests.support.guest import Guest
from tests.support.host import REPO, Host
from tests.support.pace import until
from xenbw.ledger import eventlog
from xenbw.model import Counters

pytestmark = pytest.mark.kernel

# The hook's functions, in the order of their calls.
STEPS = ("parse", "_begin", "cover", "feed", "_record", "bind", "withdraw", "_poke")
# Before the end of these, the vif has no counters yet.
UNKNOWN = ("parse", "_begin", "cover", "feed")
# Runs the hook, and kills it at that function in a call for that command: always, or once.
PROGRAM = """#!/usr/bin/python3 -IS
import os, signal, sys
def die(frame, event, _):
    if frame.f_code.co_name != {step!r} or "/xenbw/" not in frame.f_code.co_filename:
        return
    if {once!r}:
        try:
            os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
if os.environ["command"] in {commands!r}:
    sys.settrace(die)
sys.path.append({lib!r})
from xenbw.hook.call import main
main()
"""


def kill_hooks(host: Host, step: str, *commands: str, once: bool = False) -> None:
    """Kill each hook that is called for these commands when it comes to that step; once: only the first hook."""
    program, mark = host.directory / f"hook-{step}-{once}", host.directory / f"killed-{step}"
    text = PROGRAM.format(step=step, once=once, mark=str(mark), commands=commands, lib=str(REPO))
    program.write_text(text)
    program.chmod(0o755)
    host.hook_env["XENBW_HOOK"] = str(program)


def spare_hooks(host: Host) -> None:
    host.hook_env["XENBW_HOOK"] = str(REPO / "hooks" / "vif-hook")


def live(host: Host, guest: Guest) -> Counters:
    """Give a guest some traffic, and stop it; returns the bytes that it counted."""
    assert guest.send(40_000) > 0
    assert guest.receive(20_000) > 0
    total = host.quiet(guest)
    guest.destroy()
    # Others that still know the guest's MAC send to it, and the bridge floods that to the next guest, as flood.
    for place, device in ((host.outside, "eth0"), (host.namespace, BRIDGE)):
        place.ip(f"neigh flush dev {device}")
    return total


def losses(host: Host) -> list[str]:
    return [text for _, kind, text in eventlog.newest(host.ledger(), 1000) if kind == "unattributed"]


def lives_killed_at_each_step(host: Host, *, once: bool) -> dict[str, Counters]:
    """Without a daemon, for each step a VM named after it starts, its hook is killed at that step, and it stops."""
    counted = {}
    for step in STEPS:
        kill_hooks(host, step, "online", once=once)
        guest = host.start(step)
        counted[step] = live(host, guest)
    spare_hooks(host)
    host.start_daemon()
    return counted


def test_bytes_of_a_life_whose_hook_was_killed_are_charged_or_reported(running: Host) -> None:
    running.kill_daemon()
    counted = lives_killed_at_each_step(running, once=False)
    charged = {step: running.usage(step) for step in STEPS}
    assert charged == {step: total for step, total in counted.items() if step not in UNKNOWN} | {
        step: Counters(0, 0) for step in UNKNOWN
    }
    told = [f" of {step} came and went uncounted" for step in UNKNOWN]
    assert [len([text for text in losses(running) if words in text]) for words in told] == [1] * len(UNKNOWN)
    assert len(losses(running)) == len(UNKNOWN)


def test_a_hook_that_is_killed_is_called_once_more(running: Host) -> None:
    running.kill_daemon()
    counted = lives_killed_at_each_step(running, once=True)
    assert {step: running.usage(step) for step in STEPS} == counted
    assert losses(running) == []
    assert list((running.run_dir / "pending").iterdir()) == []


def test_counters_of_an_unknown_vif_are_charged_to_the_vm_of_its_domains_known_vif(running: Host) -> None:
    running.kill_daemon()
    guest = running.start("web1")
    strike_notes(running)
    kill_hooks(running, "_record", "online")
    card = guest.attach("10.50.0.77")
    guest.finish(card)
    # A vif that is attached to a running guest is connected before its script calls the hook. Broadcasts of the bridge
    # between the hook and this look are charged, but are not in the total.
    before = guest.counters(card.devid)
    kill_hooks(running, "parse", "offline")
    guest.namespace.ip(f"route replace 10.50.0.2 dev eth{card.devid}")
    total = live(running, guest)
    total = Counters(total.in_bytes - before.in_bytes, total.out_bytes - before.out_bytes)
    spare_hooks(running)
    (running.run_dir / "pending").unlink()
    running.start_daemon()

    def charged_more() -> bool:
        usage = running.usage("web1")
        return 0 <= usage.in_bytes - total.in_bytes < 1000 and 0 <= usage.out_bytes - total.out_bytes < 1000

    assert until(charged_more), (running.usage("web1"), total)
    assert losses(running) == []


def test_counters_without_a_vm_are_reported_before_they_are_deleted(running: Host) -> None:
    running.kill_daemon()
    strike_notes(running)
    kill_hooks(running, "_record", "online")
    guest = running.start("web1")
    kill_hooks(running, "parse", "offline")
    domid = guest.domid
    live(running, guest)
    spare_hooks(running)
    (running.run_dir / "pending").unlink()
    running.start_daemon()
    # Reading the configuration again hastens the second look, which comes a minute after the first.
    running.usage("web1")
    assert running.daemon is not None
    assert until(lambda: hastened(running) != [])
    (text,) = losses(running)
    assert text.startswith(f"vif{domid}.0 came and went, and no hook recorded its VM: ")
    assert "KB out charged to no VM" in text
    assert running.run(["nft", "list", "counters", "table", "netdev", "xenbw"]).stdout.count("counter ") == 0


def hastened(host: Host) -> list[str]:
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGHUP)
    host.notified("READY=1")
    host.ask("status")
    return losses(host)


def strike_notes(host: Host) -> None:
    """Make the hook fail to write its note."""
    folder = host.run_dir / "pending"
    if folder.exists():
        folder.rmdir()
    folder.write_text("in the way")
