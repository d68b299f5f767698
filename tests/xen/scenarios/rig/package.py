"""The package in dom0, and what it says of its guests."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rig import pace, shell
from rig.guest import Guest, Usage
from rig.pace import PATIENCE

CURRENT, PREVIOUS = "/rig/xenbw.deb", "/rig/previous.deb"
_DEFAULTS = Path("/etc/default/xenbw")
# Both may bear one version while the next one is in the making.
_WHICH = Path("/var/lib/rig/package")
_BEFORE_THE_CARD_WAS_UP = 8 * 90  # bytes: MLDv2 reports, of which dom0 sends one or two for each card on its bridge


def install(deb: str) -> None:
    """Install or upgrade with dpkg, and let the hook take the time that it needs here, where the old one had to."""
    shell.run("dpkg", "--install", "--force-confold", deb)
    give_the_hook_time()
    _WHICH.write_text(deb)


def install_with_apt() -> None:
    """Install the package under test as an admin does; all that it depends on must be there."""
    shell.run("apt-get", "install", "-q", "-y", "--no-install-recommends", CURRENT)
    give_the_hook_time()
    _WHICH.write_text(CURRENT)


def give_the_hook_time() -> None:
    """An admin's change of /etc/default/xenbw."""
    text = _DEFAULTS.read_text()
    _DEFAULTS.write_text(re.sub(r"(?m)^XENBW_HOOK_TIMEOUT=.*", f"XENBW_HOOK_TIMEOUT={pace.HOOK_TIMEOUT}", text))


def remove() -> None:
    """Remove it, and leave what an admin may have changed."""
    shell.run("dpkg", "--remove", "xenbw")
    _WHICH.unlink()


def which() -> str | None:
    """Which of the two is installed; None: neither."""
    return _WHICH.read_text() if _WHICH.exists() else None


def stop_daemon() -> None:
    """With its blocks taken away too, as a firewall that loads its own rules does."""
    shell.run("systemctl", "stop", "xenbwd")
    flush()


def start_daemon() -> None:
    """Until it has said that the blocks stand."""
    shell.run("systemctl", "start", "xenbwd")


@contextlib.contextmanager
def daemon_asleep() -> Iterator[None]:
    """The daemon looks away for a moment."""
    shell.run("systemctl", "kill", "--signal=STOP", "xenbwd")
    try:
        yield
    finally:
        shell.run("systemctl", "kill", "--signal=CONT", "xenbwd")


def flush() -> None:
    """Take all null routes away."""
    for command in ("iptables-legacy", "ip6tables-legacy"):
        shell.run(command, "-F")


def unseal() -> None:
    """Somebody takes every nft rule away, and sets every link up."""
    shell.run("nft", "flush", "ruleset")
    raise_links()


def raise_links() -> None:
    """Somebody sets every link up; the daemon may take ten seconds to see it."""
    for link in Path("/sys/class/net").glob("vif*"):
        shell.run("ip", "link", "set", "dev", link.name, "up")


def allow(name: str, limit: str) -> None:
    """Give a VM an allowance, with xenbw-addvm."""
    shell.run("xenbw-addvm", name, "--limit", limit)


def send_over(name: str) -> None:
    """Give a VM less than it has used already."""
    allow(name, "1KB")


@contextlib.contextmanager
def allowing(*addresses: str) -> Iterator[None]:
    """Let blocked VMs reach these, by [enforce] allow."""
    file = Path("/etc/xenbw/xenbw.toml.d/allow.toml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"[enforce]\nallow = {json.dumps(addresses)}\n")
    shell.run("systemctl", "reload", "xenbwd")
    try:
        yield
    finally:
        file.unlink()
        shell.run("systemctl", "reload", "xenbwd")


def release(name: str) -> None:
    """Let a VM do as it likes."""
    allow(name, "unlimited")


def xenbw(*arguments: str) -> str:
    """Run the command; its output."""
    return shell.run("xenbw", *arguments)


def listing() -> dict[str, Any]:
    """`xenbw list`: the VMs by name."""
    return {vm["name"]: vm for vm in json.loads(xenbw("list", "--json"))["vms"]}


def show(name: str) -> dict[str, Any]:
    """`xenbw show`."""
    shown: dict[str, Any] = json.loads(xenbw("show", name, "--json"))
    return shown


def status() -> dict[str, Any]:
    """`xenbw status`."""
    told: dict[str, Any] = json.loads(xenbw("status", "--json"))
    return told


def usage(name: str) -> Usage:
    """What a VM has used in this period."""
    return _usage(show(name))


def usages() -> dict[str, Usage]:
    """The same of all VMs, by name, in one call: each costs seconds here."""
    return {name: _usage(vm) for name, vm in listing().items()}


def settled(guest: Guest) -> Usage:
    """A VM's usage, once its present interfaces have counted to the byte what the guest has since it started: usage,
    what was flooded to it, and what it was refused.

    AssertionError if they do not soon; a guest that is not quiet never agrees.
    """
    shown, counted = show(guest.name), guest.counters()
    deadline = time.monotonic() + PATIENCE
    while not _agree(_metered(shown), counted):
        assert time.monotonic() < deadline, f"{guest.name}: xenbw {_metered(shown)}, itself {counted}"
        shown, counted = show(guest.name), guest.counters()
    return _usage(shown)


def _agree(metered: Usage, counted: Usage) -> bool:
    """To the byte, but for what dom0 sent to the card before the guest had it up: a few multicast reports, which we
    count and netback drops."""
    more = metered.in_bytes - counted.in_bytes
    return metered.out_bytes == counted.out_bytes and 0 <= more <= _BEFORE_THE_CARD_WAS_UP


def _usage(vm: dict[str, Any]) -> Usage:
    return Usage(vm["in_bytes"], vm["out_bytes"])


def _metered(shown: dict[str, Any]) -> Usage:
    return _passed([binding for binding in shown["bindings"] if binding["ended_at"] is None])


def _passed(bindings: list[dict[str, int]]) -> Usage:
    # The version before told nothing apart.
    return Usage(
        sum(vif.get(what, 0) for vif in bindings for what in ("in_bytes", "flood_bytes")),
        sum(vif.get(what, 0) for vif in bindings for what in ("out_bytes", "refused_out_bytes")),
    )


def passed(name: str) -> Usage:
    """What passed a VM's interfaces in all its lives: its usage, and what was flooded to it or refused."""
    return _passed(show(name)["bindings"])


def state(name: str) -> str:
    """ok, warned, over, blocked or unlimited."""
    return str(show(name)["state"])
