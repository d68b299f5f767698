"""A miniature dom0 with xenbw as installed (no configuration, every file in its usual place) and a fleet of guests."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tests.support.dom0 import BRIDGE, Dom0
from tests.support.host import HOOK, REPO
from tests.support.netns import Namespace
from tests.support.pace import until
from xenbw.clock import boot_id
from xenbw.errors import XenbwError
from xenbw.ledger import viflog
from xenbw.ledger.bindings import NewBinding
from xenbw.ledger.ledger import Ledger
from xenbw.rundir import control

GB = 1_000_000_000
_UNIT = REPO / "etc" / "systemd" / "xenbwd.service"
PYTHON = "/usr/bin/python3"
_INSIDE = {"PYTHONPATH": str(REPO)}
_PATIENCE = 3600.0  # seconds; a slow machine makes a benchmark slow, and no more


class Rig(Dom0):
    """A Dom0 whose /var/lib/xenbw is `state`, on this machine's disk. fleet: the number of its guests."""

    def __init__(self) -> None:
        super().__init__([HOOK])
        self.fleet = 0

    def __enter__(self) -> Self:
        super().__enter__()
        self.hook_env = {"XENBW_HOOK": str(REPO / "hooks" / "vif-hook"), "XENBW_LIB": str(REPO)}
        self._peers = Namespace()
        self._exit.callback(self._peers.close)
        for namespace in (self.namespace, self._peers):
            with namespace.entered():
                # A thousand interfaces that look for neighbours and routers would drown the measurement.
                Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        self.ledger = Ledger.open(self.state / "ledger.db", create=True)
        self._exit.callback(self.ledger.close)
        return self

    def _mounts(self) -> str:
        self.state = self.directory / "state"
        self.state.mkdir()
        return f"""{super()._mounts()}
            mkdir /run/xenbw
            mount -t tmpfs tmpfs /var/lib
            mkdir /var/lib/xenbw
            mount --bind {shlex.quote(str(self.state))} /var/lib/xenbw
        """

    def grow(self, count: int) -> None:
        """Make the fleet that many running VMs, each with a vif (a veth pair with such a name), a binding in the
        ledger, an allowance that it never reaches, and libxl's entries in xenstore."""
        domids = range(self.fleet + 1, count + 1)
        self.namespace.ip(
            *(f"link add vif{n}.0 type veth peer name eth{n} netns {self._peers.path}" for n in domids),
            *(f"link set vif{n}.0 up" for n in domids),
        )
        self._peers.ip(*(f"link set eth{n} up" for n in domids))
        with self.namespace.entered():
            ifindexes = {name: ifindex for ifindex, name in socket.if_nameindex()}
        now, boot = datetime.now(UTC), boot_id()
        with self.ledger.transaction():
            for n in domids:
                vm = self.ledger.meet(vm_name(n), now)
                self.ledger.set_vm(vm.id, added_at=now, limit_bytes=500 * GB)
                new = NewBinding(
                    name=vm_name(n),
                    boot_id=boot,
                    domid=n,
                    devid=0,
                    kind="vif",
                    ifindex=ifindexes[f"vif{n}.0"],
                    interface=f"vif{n}.0",
                    mac=_mac(n),
                    ips=_address(n),
                    bridge=BRIDGE,
                )
                viflog.bind(self.ledger, now, new)
        for n in domids:
            self.store.write_all(_nodes(n))
        self.fleet = count
        self.take_domid(count)

    def block(self, name: str) -> None:
        """Block a VM as `xenbw block` does; a running daemon finds the block in the ledger at its next round."""
        self._set(name, blocked_reason="for the measurement")

    def allow(self, name: str, limit_bytes: int) -> None:
        """Set a VM's allowance as `xenbw addvm` does; a running daemon finds it in the same way."""
        self._set(name, limit_bytes=limit_bytes)

    def _set(self, name: str, **values: object) -> None:
        now = datetime.now(UTC)
        self.ledger.set_vm(self.ledger.meet(name, now).id, added_at=now, **values)

    def send_to_all(self, size: int = 1000) -> None:
        """Send one frame of that size to every guest of the fleet."""
        with self.namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            for n in range(1, self.fleet + 1):
                # A sealed interface accepts nothing, which the sender sees as ENOBUFS.
                with contextlib.suppress(OSError):
                    sender.sendto(bytes(size), (f"vif{n}.0", 0))

    def start_daemon(self) -> int:
        """Start xenbwd as its unit does and wait until it counts the whole fleet. Returns its process id."""
        log = self.directory / "xenbwd.log"
        given = re.findall(r"^Environment=(\w+)=(\S+)$", _UNIT.read_text(), re.MULTILINE)
        process = self.popen([PYTHON, "-m", "xenbw.daemon"], output=log, env={**_INSIDE, **dict(given)})
        self._daemon = process.pid
        if not until(lambda: process.poll() is not None or self._counts_all(), 60) or process.poll() is not None:
            raise RuntimeError(f"xenbwd does not count: {log.read_text()}")
        return process.pid

    def measured(self, module: str, *args: str) -> Any:
        """What a module prints, as JSON, in a process inside the namespaces: one that reads their /proc and /sys."""
        argv = [PYTHON, "-m", module, *args]
        return json.loads(self.run(argv, env=_INSIDE, timeout=_PATIENCE, check=True).stdout)

    def ask(self, op: str) -> dict[str, Any]:
        """Ask the daemon over its socket, which exists only in the namespace's own /run."""
        return control.ask(Path(f"/proc/{self._daemon}/root/run/xenbw"), op, timeout=10)

    def _counts_all(self) -> bool:
        try:
            return bool(self.ask("status")["interfaces"] >= self.fleet)
        except XenbwError:
            return False


def _nodes(n: int) -> dict[str, str]:
    domain, backend = f"/local/domain/{n}", f"/local/domain/0/backend/vif/{n}/0"
    return {
        f"{domain}/name": vm_name(n),
        f"{backend}/frontend-id": str(n),
        f"{backend}/mac": _mac(n),
        f"{backend}/ip": _address(n),
        f"{backend}/bridge": BRIDGE,
        f"{backend}/hotplug-status": "connected",
    }


def vm_name(n: int) -> str:
    """The fleet's VM with domid n."""
    return f"fleet{n:04}"


def _mac(n: int) -> str:
    return f"00:16:3e:60:{n >> 8:02x}:{n & 255:02x}"


def _address(n: int) -> str:
    return f"10.60.{n >> 8}.{n & 255}"
