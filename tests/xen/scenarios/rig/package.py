"""The package in dom0, and its output about guests."""

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
# Both packages may have the same version during development.
_WHICH = Path("/var/lib/rig/package")
_BEFORE_THE_CARD_WAS_UP = 8 * 90  # bytes of MLDv2 reports, of which dom0 sends one or two for each vif on its bridge


def install(deb: str) -> None:
    """Install or upgrade with dpkg, and give the hook the time that it needs here."""
    shell.run("dpkg", "--install", "--force-confold", deb)
    give_the_hook_time()
    _WHICH.write_text(deb)


def install_with_apt() -> None:
    """Install the package under test with apt; all its dependencies must be installed."""
    shell.run("apt-get", "install", "-q", "-y", "--no-install-recommends", CURRENT)
    give_the_hook_time()
    _WHICH.write_text(CURRENT)


def give_the_hook_time() -> None:
    """Give the hook more time in /etc/default/xenbw, as an admin may."""
    text = _DEFAULTS.read_text()
    _DEFAULTS.write_text(re.sub(r"(?m)^XENBW_HOOK_TIMEOUT=.*", f"XENBW_HOOK_TIMEOUT={pace.HOOK_TIMEOUT}", text))


def remove() -> None:
    """Remove the package, but not its configuration."""
    shell.run("dpkg", "--remove", "xenbw")
    _WHICH.unlink()


def which() -> str | None:
    """Which of the two packages is installed; None: neither."""
    return _WHICH.read_text() if _WHICH.exists() else None


def stop_daemon() -> None:
    """Stop the daemon and remove its blocks, as a firewall that loads its own rules does."""
    shell.run("systemctl", "stop", "xenbwd")
    flush()


def start_daemon() -> None:
    """Start the daemon, and wait until it reports that its blocks hold."""
    shell.run("systemctl", "start", "xenbwd")


@contextlib.contextmanager
def daemon_asleep() -> Iterator[None]:
    """Stop the daemon's process inside this context."""
    shell.run("systemctl", "kill", "--signal=STOP", "xenbwd")
    try:
        yield
    finally:
        shell.run("systemctl", "kill", "--signal=CONT", "xenbwd")


def flush() -> None:
    """Flush all null routes."""
    for command in ("iptables-legacy", "ip6tables-legacy"):
        shell.run(command, "-F")


def unseal() -> None:
    """Flush all nft rules, remove all drops by tc, and set all links up."""
    shell.run("nft", "flush", "ruleset")
    raise_links()


def raise_links() -> None:
    """Set all links up, and remove all drops by tc; the daemon may take ten seconds to notice."""
    for link in Path("/sys/class/net").glob("vif*"):
        shell.run("tc", "qdisc", "del", "dev", link.name, "clsact", check=False)
        shell.run("ip", "link", "set", "dev", link.name, "up")


def allow(name: str, limit: str) -> None:
    """Give a VM an allowance, with xenbw-addvm."""
    shell.run("xenbw-addvm", name, "--limit", limit)


def send_over(name: str) -> None:
    """Give a VM a smaller allowance than its usage."""
    allow(name, "1KB")


@contextlib.contextmanager
def configured(lines: str) -> Iterator[None]:
    """Have these lines in xenbw's configuration inside this context."""
    file = Path("/etc/xenbw/xenbw.toml.d/scenario.toml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(lines)
    shell.run("systemctl", "reload", "xenbwd")
    try:
        yield
    finally:
        file.unlink()
        shell.run("systemctl", "reload", "xenbwd")


def allowing(*addresses: str) -> contextlib.AbstractContextManager[None]:
    """Let blocked VMs reach these networks, by [enforce] allow."""
    return configured(f"[enforce]\nallow = {json.dumps(addresses)}\n")


def release(name: str) -> None:
    """Make a VM unlimited."""
    allow(name, "unlimited")


def xenbw(*arguments: str) -> str:
    """Run xenbw; returns its output."""
    return shell.run("xenbw", *arguments)


def listing() -> dict[str, Any]:
    """`xenbw list`: the VMs by name."""
    return {vm["name"]: vm for vm in json.loads(xenbw("list", "--json"))["vms"]}


def show(name: str) -> dict[str, Any]:
    """`xenbw show`."""
    shown: dict[str, Any] = json.loads(xenbw("show", name, "--json"))
    return shown


def status() -> dict[str, Any]:
    """`xenbw status`, also if it says that the daemon did not answer in time."""
    told: dict[str, Any] = json.loads(shell.run("xenbw", "status", "--json", check=False))
    return told


def usage(name: str) -> Usage:
    """A VM's usage in this period."""
    return _usage(show(name))


def usages() -> dict[str, Usage]:
    """The usage of all VMs by name, in one call, since each call takes seconds here."""
    return {name: _usage(vm) for name, vm in listing().items()}


def settled(guest: Guest) -> Usage:
    """A VM's usage, once the usage, flood and refused bytes of its present vifs equal the guest's counters.

    AssertionError if they do not soon; with traffic they never do.
    """
    shown, counted = show(guest.name), guest.counters()
    deadline = time.monotonic() + PATIENCE
    while not _agree(_metered(shown), counted):
        assert time.monotonic() < deadline, f"{guest.name}: xenbw {_metered(shown)}, itself {counted}"
        shown, counted = show(guest.name), guest.counters()
    return _usage(shown)


def _agree(metered: Usage, counted: Usage) -> bool:
    """Equal to the byte, except the multicast reports that dom0 sent before the guest had its card up: xenbw counts
    them, and netback drops them."""
    more = metered.in_bytes - counted.in_bytes
    return metered.out_bytes == counted.out_bytes and 0 <= more <= _BEFORE_THE_CARD_WAS_UP


def _usage(vm: dict[str, Any]) -> Usage:
    return Usage(vm["in_bytes"], vm["out_bytes"])


def _metered(shown: dict[str, Any]) -> Usage:
    return _passed([binding for binding in shown["bindings"] if binding["ended_at"] is None])


def _passed(bindings: list[dict[str, int]]) -> Usage:
    # The previous version did not tell usage from other bytes.
    return Usage(
        sum(vif.get(what, 0) for vif in bindings for what in ("in_bytes", "flood_bytes")),
        sum(vif.get(what, 0) for vif in bindings for what in ("out_bytes", "refused_out_bytes")),
    )


def passed(name: str) -> Usage:
    """All bytes of a VM's vifs in all its lives: usage, flood and refused."""
    return _passed(show(name)["bindings"])


def state(name: str) -> str:
    """A VM's state: ok, warned, over, blocked or unlimited."""
    return str(show(name)["state"])
