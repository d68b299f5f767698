"""A guest of the miniature dom0: a namespace behind a veth pair, with what libxl writes about it in xenstore."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from tests.support.netns import Namespace
from tests.support.pace import until
from tests.support.scales import Scales
from tests.support.traffic import transfer
from xenbw.model import Counters

if TYPE_CHECKING:
    from tests.support.dom0 import Dom0

ETH_HLEN = 14  # linux/if_ether.h
_REPORTED = 0.1
_STATE_INITIALISING, _STATE_CONNECTED, _STATE_CLOSED = "1", "4", "6"  # xen/include/public/io/xenbus.h


@dataclass(frozen=True)
class ScriptResult:
    """A finished run of a vif script. `seconds` is its whole duration; its stderr goes to Dom0.script_log."""

    command: str
    devid: int
    returncode: int
    seconds: float
    stdout: str
    stderr: str


class ScriptError(Exception):
    """A vif script failed at the start of a guest; xl then destroys the guest."""

    def __init__(self, results: list[ScriptResult]) -> None:
        super().__init__(results)
        self.results = results


@dataclass(frozen=True)
class Card:
    """A network card in the guest's config. `ips`: the guest's own addresses; `config_ips`: the addresses in `ip=`."""

    devid: int
    mac: str
    ips: tuple[str, ...]
    config_ips: tuple[str, ...]
    bridge: str
    vifname: str | None
    script: str


class Guest:
    """A guest over all its lives: name, UUID, MAC and addresses stay, the domid grows.

    `scripts` are the runs of its vif scripts, oldest first; `interfaces` are its vifs' names in dom0 by devid. When it
    is `weighed`, its `scales` capture what passes its first card from its next start on. One that is `received` comes
    from another host: it gets its name when its vifs are there, and runs then.

    It has more than twenty methods: one for each thing that a guest does or that is done to it.
    """

    def __init__(self, dom0: Dom0, name: str, uuid: str, cards: list[Card]) -> None:
        self.name = name
        self.uuid = uuid
        self.cards = cards
        self.domid = 0
        self.scripts: list[ScriptResult] = []
        self.interfaces: dict[int, str] = {}
        self.weighed = False
        self.received = False
        self.scales: Scales | None = None
        self._namespace: Namespace | None = None
        self._dom0 = dom0

    @property
    def running(self) -> bool:
        return self._namespace is not None

    @property
    def namespace(self) -> Namespace:
        """The namespace of the running guest's cards eth0, eth1, … and its processes."""
        if self._namespace is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._namespace

    @property
    def interface(self) -> str:
        """The first vif's name in dom0."""
        return self.interfaces[0]

    def start(self, domid: int | None = None) -> None:
        """Start (again) under a new domid; ScriptError when a vif script fails, which leaves nothing of the guest."""
        self.domid = self._dom0.take_domid(domid)
        self._namespace = Namespace()
        self._dom0.guests.append(self)
        self._dom0.store.write_all(self._domain_nodes())
        for card in self.cards:
            self._plug(card)
        self.scales = Scales(self._namespace).__enter__() if self.weighed else None
        results = self._run_scripts("online")
        self._follow_renames()
        if any(result.returncode for result in results):
            self.destroy()
            raise ScriptError(results)
        if self.received:
            self.rename(self.name)
        for card in self.cards:
            self._connect(card)
        if self.weighed:
            # Wait for the second MLD report: if it is sent just as dom0 takes the vif down, it is captured on the card
            # but arrives nowhere.
            time.sleep(_REPORTED)

    def stop(self) -> None:
        """Shut down: the guest takes its links down, then goes as in `destroy`."""
        self.namespace.ip(*(f"link set eth{card.devid} down" for card in self.cards))
        self.destroy()

    def destroy(self) -> None:
        """Go as a real guest does: first the interfaces, then the scripts run offline, then xenstore's entries.

        While the scripts run, domain and backend are readable and the frontend is not.
        """
        for interface in self.interfaces.values():
            self._dom0.namespace.run(["ip", "link", "del", interface])
        store = self._dom0.store
        store.remove(f"/local/domain/{self.domid}/device")
        for card in self.cards:
            store.write_all({f"{self._backend(card)}/{key}": value for key, value in _CLOSED.items()})
            store.remove(f"{self._backend(card)}/hotplug-status")
        self._run_scripts("offline")
        for path in (f"/local/domain/0/backend/vif/{self.domid}", f"/local/domain/{self.domid}", f"/vm/{self.uuid}"):
            store.remove(path)
        self.namespace.close()
        self._namespace = None
        self.interfaces = {}
        self._dom0.guests.remove(self)

    def reboot(self) -> None:
        """Stop and start: the same guest under a new domid."""
        self.stop()
        self.start()

    def rename(self, name: str) -> None:
        """`xl rename` (libxl_domain.c, libxl__domain_rename)."""
        self.name = name
        self._dom0.store.write_all({f"/local/domain/{self.domid}/name": name, f"/vm/{self.uuid}/name": name})

    def preserve(self, stamp: str = "-20260801T0840Z") -> None:
        """Crash, and be kept (libxl_domain.c, libxl_domain_preserve): the hypervisor's uuid stays the old one."""
        new = f"/vm/{uuid4()}"
        self.rename(self.name + stamp)
        self._dom0.store.write_all({f"/local/domain/{self.domid}/vm": new, f"{new}/uuid": new.removeprefix("/vm/")})
        self.namespace.ip(*(f"link set eth{card.devid} down" for card in self.cards))

    def attach(self, *ips: str) -> Card:
        """Attach a card to the running guest, which sets it up at once; its script has not run yet. Returns the
        card."""
        first, devid = self.cards[0], len(self.cards)
        card = replace(first, devid=devid, mac=f"{first.mac[:-2]}{devid:02x}", ips=ips, config_ips=ips, vifname=None)
        self._plug(card)
        self.cards.append(card)
        self.namespace.ip(f"link set eth{devid} up", *(f"addr add {ip}/24 dev eth{devid} noprefixroute" for ip in ips))
        return card

    def finish(self, card: Card) -> None:
        """Run the script of an attached card."""
        self.scripts.append(self._dom0.run_script("online", self.domid, card))

    def rename_vif(self, interface: str, devid: int = 0) -> None:
        """Rename the running guest's vif in dom0, as an admin may; kernels before 6.2 rename only links that are
        down."""
        old, self.interfaces[devid] = self.interfaces[devid], interface
        up = self._dom0.run(["ip", "link", "show", "up", "dev", old]).stdout != ""
        again = [f"link set {interface} up"] if up else []
        self._dom0.namespace.ip(f"link set {old} down", f"link set {old} name {interface}", *again)

    def ping(self, address: str, count: int = 1, timeout: float = 0.5) -> bool:
        """Whether every one of `count` echo requests is answered within `timeout` seconds."""
        argv = ["ping", "-n", "-q", "-i", "0.05", "-c", str(count), "-W", str(timeout), address]
        return f" {count} received" in self.namespace.run(argv).stdout

    def reaches(self, address: str) -> bool:
        """Whether one echo request is answered: at once on an idle machine, a moment after the card's link came up."""
        return until(lambda: self.ping(address, timeout=2), 1)

    def send(self, size: int, to: Guest | str = "outside", *, version: int = 4, timeout: float = 0.3) -> int:
        """Send `size` bytes of UDP payload to "outside", "dom0" or another guest. Returns how many arrived there."""
        target, address = self._dom0.peer(to, version)
        return transfer(self.namespace, target, address, size, timeout)

    def receive(self, size: int, sender: Guest | str = "outside", *, version: int = 4, timeout: float = 0.3) -> int:
        """Let "outside", "dom0" or another guest send `size` bytes of UDP payload. Returns how many arrived here."""
        source, _ = self._dom0.peer(sender, version)
        return transfer(source, self.namespace, self.address(version), size, timeout)

    def counters(self, devid: int = 0) -> Counters:
        """The bytes that the guest's own card counted in this life, as netback counts them: bytes from the guest
        without their Ethernet headers."""
        fields = self._statistics(devid)
        return Counters(in_bytes=fields[0], out_bytes=fields[8] - ETH_HLEN * fields[9])

    def sent_frames(self) -> int:
        """How many frames the guest's own first card has sent in this life."""
        return self._statistics(0)[9]

    def _statistics(self, devid: int) -> list[int]:
        with self.namespace.entered():
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        (fields,) = (line.split(":")[1].split() for line in lines if line.strip().startswith(f"eth{devid}:"))
        return [int(field) for field in fields]

    def address(self, version: int = 4) -> str:
        """The guest's first address of that IP version."""
        return next(ip for card in self.cards for ip in card.ips if (":" in ip) == (version == 6))

    def _backend(self, card: Card) -> str:
        return f"/local/domain/0/backend/vif/{self.domid}/{card.devid}"

    def _plug(self, card: Card) -> None:
        """Do what libxl and then netback do for a vif before its script runs."""
        interface = self.interfaces[card.devid] = f"vif{self.domid}.{card.devid}"
        self._dom0.store.write_all(self._vif_nodes(card))
        peer = f"peer name eth{card.devid} address {card.mac} netns {self.namespace.path}"
        # Switch off IPv6 on the bridge port: an MLD report, sent just as a test takes the port down, would pass xenbw's
        # counters and never reach the guest.
        mute = [f"link set {interface} addrgenmode none"] if card.script == "vif-bridge" else []
        self._dom0.namespace.ip(f"link add {interface} type veth {peer}", *mute)

    def _follow_renames(self) -> None:
        """Update the vifs' names: the scripts rename a vif to its vifname, unless they fail before."""
        with self._dom0.namespace.entered():
            present = {name for _, name in socket.if_nameindex()}
        for card in self.cards:
            if card.vifname and self.interfaces[card.devid] not in present:
                self.interfaces[card.devid] = card.vifname

    def _connect(self, card: Card) -> None:
        """Do what the guest does once its vif is connected: set addresses and default routes."""
        device = f"eth{card.devid}"
        gateways = sorted({_gateway(card, ip) for ip in card.ips})
        self.namespace.ip(
            f"link set {device} up",
            *(f"addr add {ip}/{64 if ':' in ip else 24} dev {device}" for ip in card.ips),
            *(f"route replace default via {gateway} dev {device} onlink" for gateway in gateways),
        )
        self._await_forwarding(self.interfaces[card.devid])
        self._dom0.store.write_all(
            {
                f"{self._backend(card)}/state": _STATE_CONNECTED,
                f"/local/domain/{self.domid}/device/vif/{card.devid}/state": _STATE_CONNECTED,
            }
        )

    def _await_forwarding(self, interface: str) -> None:
        """Wait for the link. The kernel looks at new links at most once a second (linux net/core/link_watch.c); until
        then the bridge keeps the port closed. A port that a hook set down stays closed."""
        device = f"/sys/class/net/{interface}"
        state, up = f"{device}/brport/state", f"$(($(cat {device}/flags) & 1))"
        done = f"[ ! -e {state} ] || [ {up} = 0 ] || [ $(cat {state}) = 3 ]"
        loop = f"for i in $(seq 200); do {done} && exit; sleep 0.01; done"
        self._dom0.run(["sh", "-c", loop])

    def _run_scripts(self, command: str) -> list[ScriptResult]:
        """Run the scripts of all vifs at the same time, as libxl does."""
        run = partial(self._dom0.run_script, command, self.domid, received=self.received and command == "online")
        with ThreadPoolExecutor() as pool:
            results = list(pool.map(run, self.cards))
        self.scripts += results
        return results

    def nodes(self, *, connected: bool) -> dict[str, str]:
        """What xenstore has of the running guest. connected: whether its scripts and netback have set up its vifs."""
        nodes = self._domain_nodes()
        for card in self.cards:
            nodes |= self._vif_nodes(card)
            if connected:
                done = {"hotplug-status": "connected", "state": _STATE_CONNECTED}
                nodes |= {f"{self._backend(card)}/{key}": value for key, value in done.items()}
        return nodes

    def _domain_nodes(self) -> dict[str, str]:
        domain, vm = f"/local/domain/{self.domid}", f"/vm/{self.uuid}"
        name = f"{self.name}--incoming" if self.received else self.name
        return {
            f"{vm}/name": name,
            f"{vm}/uuid": self.uuid,
            f"{domain}/vm": vm,
            f"{domain}/name": name,
            f"{domain}/domid": str(self.domid),
            f"{domain}/memory/target": str(128 * 1024),
        }

    def _vif_nodes(self, card: Card) -> dict[str, str]:
        frontend = f"/local/domain/{self.domid}/device/vif/{card.devid}"
        backend = {
            "frontend": frontend,
            "frontend-id": str(self.domid),
            "online": "1",
            "state": _STATE_INITIALISING,
            "script": f"/etc/xen/scripts/{card.script}",
            "mac": card.mac,
            "bridge": card.bridge,
            "handle": str(card.devid),
            "type": "vif",
            "hotplug-status": "",
        }
        if card.config_ips:
            backend["ip"] = " ".join(card.config_ips)
        if card.vifname:
            backend["vifname"] = card.vifname
        device = {"backend": self._backend(card), "backend-id": "0", "handle": str(card.devid), "mac": card.mac}
        return {f"{self._backend(card)}/{key}": value for key, value in backend.items()} | {
            f"{frontend}/{key}": value for key, value in device.items()
        }


_CLOSED = {"online": "0", "state": _STATE_CLOSED}


def _gateway(card: Card, ip: str) -> str:
    if ":" in ip:
        return "fd50::1"
    if card.script == "vif-nat":  # its routing_ip(): the guest's address with 127 added to the last byte
        network, _, host = ip.rpartition(".")
        return f"{network}.{int(host) + 127}"
    return "10.50.0.1"


def agree(usage: Counters, counted: Counters) -> bool:
    """Whether usage that the kernel's counters partly bridged matches the guest's count: veth, unlike netback, counts
    the Ethernet headers of frames from the guest."""
    headers = usage.out_bytes - counted.out_bytes
    # Packets of the test's own traffic have well over a hundred bytes.
    most = max(3000, counted.out_bytes // 10)
    return usage.in_bytes == counted.in_bytes and 0 <= headers < most and headers % ETH_HLEN == 0
