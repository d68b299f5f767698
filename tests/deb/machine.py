"""This machine as a dom0: the installed package, the system's own daemon, Debian's vif scripts, real traffic.

Like tests.support.dom0 without namespaces: bridge and guests are in the machine's own network, and the stand-in for
xenstored is at the place of Xen's. Only for machines that may be thrown away.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from tests.support.dom0 import _XL, BRIDGE, Dom0
from tests.support.guest import Guest
from tests.support.netns import Namespace
from tests.support.pace import until
from tests.support.xenstored import Xenstored
from xenbw.model import Counters

XENSTORED = Path("/run/xenstored/socket")


class Here(Namespace):
    """The network that this process is in."""

    def __init__(self) -> None:
        self._net = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._mounts = None
        self.wrapper = ()
        self._children = []

    def close(self) -> None:
        os.close(self._net)


class Machine(Dom0):
    """`xenbw` runs the installed command line, with an `xl` that lists what xenstored knows."""

    def _set_up(self) -> None:
        self.directory = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="xenbw-machine-")))
        XENSTORED.parent.mkdir(exist_ok=True)
        XENSTORED.unlink(missing_ok=True)
        self.store = self._exit.enter_context(Xenstored(XENSTORED))
        self._exit.callback(XENSTORED.unlink)
        self.store.write_all({"/local/domain/0/memory/target": str(1536 * 1024)})
        self._install()
        self.namespace = Here()
        self._exit.callback(self.namespace.close)
        self.outside = Namespace()
        self._exit.callback(self.outside.close)
        self._exit.callback(self._unplug)
        self._wire()

    def _install(self) -> None:
        self.etc = Path("/etc/xen")
        self.script_log = Path("/var/log/xen/xen-hotplug.log")
        self.bin_dir = self.directory
        xl = self.bin_dir / "xl"
        xl.write_text(_XL.replace("{socket}", shlex.quote(str(self.store.path))))
        xl.chmod(0o755)

    def _unplug(self) -> None:
        """Delete the guest's links; the kernel removes the links of a gone namespace with a delay."""
        vifs = [interface for guest in self.guests for interface in guest.interfaces.values()]
        self.namespace.ip(*(f"link del {interface}" for interface in (BRIDGE, "outside", *vifs)))
        self._drop_guests()

    def xenbw(self, *arguments: str) -> str:
        """The output of an xenbw command, which must succeed."""
        return self.run(["xenbw", *arguments], check=True).stdout

    def add(self, name: str, limit: str) -> None:
        """Give a guest an allowance, which counts both directions."""
        self.xenbw("addvm", name, "--limit", limit)

    def show(self, name: str) -> dict[str, Any]:
        """`xenbw show NAME --json`."""
        document: dict[str, Any] = json.loads(self.xenbw("show", name, "--json"))
        return document

    def metered(self, guest: Guest) -> Counters:
        """The usage of a guest's present life, by xenbw."""
        life = next(life for life in self.show(guest.name)["bindings"] if life["ended_at"] is None)
        return Counters(life["in_bytes"], life["out_bytes"])

    def null_routed(self, *addresses: str) -> bool:
        """Whether the kernel has both null routes of each address."""
        return all(self._null_routed(address) for address in addresses)

    def _null_routed(self, address: str) -> bool:
        # Unlike `iptables -S` this does not wait for the lock, which a hung daemon may hold.
        command, length = ("ip6tables-legacy-save", 128) if ":" in address else ("iptables-legacy-save", 32)
        rules = self.run([command, "-t", "filter"], check=True).stdout.splitlines()
        chain = [rule for rule in rules if rule.startswith("-A XENBW")]
        return all(any(f" {side} {address}/{length} " in rule for rule in chain) for side in ("-s", "-d"))

    def push_over(self, guest: Guest, ips: tuple[str, ...]) -> None:
        """Let a guest with an allowance of 1 MB go over it, and wait for the null routes."""
        guest.send(2_000_000)
        assert until(lambda: self.null_routed(*ips), 30), self.xenbw("status")
