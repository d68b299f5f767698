"""Hooks that are killed at their work while no daemon runs: whose traffic it was is known all the same, or is told to
be nobody's."""

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

# The hook's functions, in the order in which it comes to them.
STEPS = ("parse", "_begin", "cover", "feed", "_record", "bind", "withdraw", "_poke")
# Up to these nothing counts yet.
UNKNOWN = ("parse", "_begin", "cover", "feed")
# Runs the hook, and dies where it comes to that function, in a call of that command: always, or once.
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
    """Have each hook called for these commands killed where it comes to that step; once: the first of them alone."""
    program, mark = host.directory / f"hook-{step}-{once}", host.directory / f"killed-{step}"
    text = PROGRAM.format(step=step, once=once, mark=str(mark), commands=commands, lib=str(REPO))
    program.write_text(text)
    program.chmod(0o755)
    host.hook_env["XENBW_HOOK"] = str(program)


def spare_hooks(host: Host) -> None:
    host.hook_env["XENBW_HOOK"] = str(REPO / "hooks" / "vif-hook")


def live(host: Host, guest: Guest) -> Counters:
    """Let a guest have its traffic, and stop it; what it counted."""
    assert guest.send(40_000) > 0
    assert guest.receive(20_000) > 0
    total = host.quiet(guest)
    guest.destroy()
    # Who still knows its MAC asks for it, and the bridge floods that to the next guest, whose usage it is not.
    for place, device in ((host.outside, "eth0"), (host.namespace, BRIDGE)):
        place.ip(f"neigh flush dev {device}")
    return total


def losses(host: Host) -> list[str]:
    return [text for _, kind, text in eventlog.newest(host.ledger(), 1000) if kind == "unattributed"]


def lives_killed_at_each_step(host: Host, *, once: bool) -> dict[str, Counters]:
    """A life of a VM named after each step, with no daemon there, and its hook killed at its start."""
    counted = {}
    for step in STEPS:
        kill_hooks(host, step, "online", once=once)
        guest = host.start(step)
        counted[step] = live(host, guest)
    spare_hooks(host)
    host.start_daemon()
    return counted


def test_a_life_whose_hook_was_killed_is_its_vms_or_is_told(running: Host) -> None:
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


def test_counters_of_one_card_are_charged_to_the_vm_that_another_of_its_domain_is_known_for(running: Host) -> None:
    running.kill_daemon()
    guest = running.start("web1")
    strike_notes(running)
    kill_hooks(running, "_record", "online")
    card = guest.attach("10.50.0.77")
    guest.finish(card)
    # A card that is attached to a running guest is connected before its script comes to the hook. What the bridge says
    # to all between the hook and this look is charged, and not in the total.
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


def test_counters_that_are_nobodys_are_told_before_they_are_taken_away(running: Host) -> None:
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
    # The second look, a minute after the first, is had sooner where the configuration is read again.
    running.usage("web1")
    assert running.daemon is not None
    assert until(lambda: hastened(running) != [])
    (text,) = losses(running)
    assert text.startswith(f"vif{domid}.0 came and went, no hook told whose it was: ")
    assert "KB out charged to nobody" in text
    assert running.run(["nft", "list", "counters", "table", "netdev", "xenbw"]).stdout.count("counter ") == 0


def hastened(host: Host) -> list[str]:
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGHUP)
    host.notified("READY=1")
    host.ask("status")
    return losses(host)


def strike_notes(host: Host) -> None:
    """A hook finds no place for a note."""
    folder = host.run_dir / "pending"
    if folder.exists():
        folder.rmdir()
    folder.write_text("in the way")
