"""A temporary guest and its peer on a bridge, for test packets.

Both are network namespaces of this process, connected to the bridge by veth pairs. The bridge is in a third such
namespace, so that the test cannot disturb this host or leave anything behind; or, on request, it is one of this host's.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from xenbw.blocks.block import Block, Wanted
from xenbw.blocks.registry import REGISTRY, Means
from xenbw.doctor.namespace import Here, Namespace, Place, has_ipv6
from xenbw.doctor.wire import CARD, until
from xenbw.errors import UsageError, XenbwError
from xenbw.nft.chains import Chains
from xenbw.nft.netlink import Table
from xenbw.nft.nft import TABLE, life_of
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.port import Port
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Tables
from xenbw.runner import Runner
from xenbw.vifs import interfaces

OWN_BRIDGE = "xenbw-br"
GUEST, PEER = "xenbw-guest", "xenbw-peer"
# Addresses for documentation (RFC 5737), which no host uses.
GUEST_ADDRESS, PEER_ADDRESS, DOM0_ADDRESS = "192.0.2.1", "192.0.2.2", "192.0.2.3"
GUEST_MAC, PEER_MAC, _DOM0_MAC = "02:78:65:6e:00:01", "02:78:65:6e:00:02", "02:78:65:6e:00:03"
# The MAC that Xen's scripts give to vifs: it is high because a bridge takes the lowest address of its ports.
_PORT_MAC = "fe:ff:ff:ff:ff:ff"
_DOMID, _DEVID = 0, 0  # dom0 has no vif, so no guest's interface has this key
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds until a port forwards: a bridge with STP listens for 15 s and learns for 15 s (IEEE 802.1D).
_SOON, _AT_LAST = 10.0, 40.0


@dataclass(frozen=True)
class Rig:
    """dom0: the network with the bridge, xenbw's chains and the null routes. port: the guest's interface in it."""

    dom0: Place
    guest: Namespace
    peer: Namespace
    port: Port

    def cover(self) -> list[str]:
        """Have our chains on the guest's interface; why that did not work. Raises MeterError."""

        def there() -> list[str]:
            with closing(Tables(hand_to_nft)) as tables:
                chains = Chains(tables)
                chains.keep([self.port], chains.look())
                return chains.problems([self.port])

        return self.dom0.do(there)

    @contextmanager
    def block(self, name: str) -> Iterator[Block]:
        """One of the registry's blocks, for the rig's dom0."""
        with closing(Tables(hand_to_nft)) as tables, TemporaryDirectory() as run_dir:
            yield REGISTRY[name].make(Means(tables, Chains(tables), Quotas(tables), run_dir))

    def put(self, block: Block, wanted: Wanted) -> None:
        """Have a block hold the guest's interface as wanted. Raises XenbwError."""
        outcome = self.dom0.do(lambda: block.apply(wanted))
        if outcome.problems:
            raise XenbwError("; ".join(outcome.problems), "journalctl -k, and nft list ruleset, may show why")

    def counted(self) -> dict[str, int]:
        """The bytes of each of xenbw's counters on the guest's interface. Raises MeterError."""
        table = Table(TABLE)
        try:
            counters = self.dom0.do(table.counters)
        finally:
            table.close()
        prefix = f"{self.port.key}-"
        return {name.removeprefix(prefix): size for name, size in counters.items() if name.startswith(prefix)}


@contextmanager
def own(run: Runner) -> Iterator[Rig]:
    """A rig on its own bridge, in its own network. Raises XenbwError, OSError."""
    with ExitStack() as leaving:
        dom0 = Namespace()
        leaving.callback(dom0.close)
        _ip(
            dom0,
            run,
            f"link add {OWN_BRIDGE} address {_DOM0_MAC} type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
            f"addr add {DOM0_ADDRESS}/24 dev {OWN_BRIDGE}",
            f"link set {OWN_BRIDGE} up",
            f"neigh add {GUEST_ADDRESS} lladdr {GUEST_MAC} dev {OWN_BRIDGE} nud permanent",
        )
        dom0.do(_filter_as_here(interfaces.bridge_filtered(4)))
        rig = _plug(dom0, OWN_BRIDGE, run, leaving, _SOON)
        _ip(rig.guest, run, f"neigh add {DOM0_ADDRESS} lladdr {_DOM0_MAC} dev {CARD} nud permanent")
        # On a host's bridge the MAC is left out, because it would stay in xenbw's table, which outlives the interface.
        yield replace(rig, port=rig.port._replace(mac=GUEST_MAC))


def require_bridge(name: str) -> None:
    """Raises UsageError unless this host has a Linux bridge of that name."""
    there = {name for _, name in socket.if_nameindex()}
    if name not in there or not (interfaces.SYSFS / name / "bridge").is_dir():
        raise UsageError(f"{name}: no Linux bridge of this host", "ip link show type bridge lists them")


@contextmanager
def on(bridge: str, run: Runner, run_dir: Path) -> Iterator[Rig]:
    """A rig on a bridge of this host. No frame passes between the rig and other ports; only dom0's own broadcasts and
    multicasts reach the rig. Raises XenbwError, OSError."""
    dom0 = Here()
    with ExitStack() as leaving:
        leaving.enter_context(_alone(run_dir))
        leaving.callback(_leave_nothing, run)
        # Remove the rest of an earlier doctor that was killed.
        _leave_nothing(run)
        yield _plug(dom0, bridge, run, leaving, _AT_LAST)


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Allow one doctor at a time, by a lock on a file that only root can open; the lock ends with its process. (Any
    user could take the name of an abstract socket.) Raises XenbwError, OSError."""
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = os.open(run_dir / "doctor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise XenbwError("another xenbw doctor is using a bridge of this host", "wait until it is done") from None
        yield
    finally:
        os.close(lock)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore signals during this block, in this process and in the commands that it starts."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_nothing(run: Runner) -> None:
    """Remove all parts of a rig on a bridge of this host."""
    with undisturbed():
        present = {name for _, name in socket.if_nameindex()}
        for interface in {GUEST, PEER} & present:
            run(["ip", "link", "delete", interface])
        with closing(Tables(hand_to_nft)) as tables:
            table = tables.of()
            keys = {name.rpartition("-in")[0] for name in table.counters() if name.endswith("-in")}
            lives = {key: life_of(key) for key in keys}
            # Keep the loopback interface's counters, by which the daemon tests nft with the same domid.
            ours = [key for key, life in lives.items() if life and life[0] == _DOMID and life[2] != 1]
            Chains(tables).release(ours)


def _plug(dom0: Place, bridge: str, run: Runner, leaving: ExitStack, patience: float) -> Rig:
    """Create guest and peer, and connect them to the bridge."""
    guest, peer = Namespace(), Namespace()
    leaving.callback(guest.close)
    leaving.callback(peer.close)
    mtu = json.loads(dom0.do(lambda: run(["ip", "-json", "link", "show", "dev", bridge])).stdout)[0]["mtu"]
    for name, place, mac in ((GUEST, guest, GUEST_MAC), (PEER, peer, PEER_MAC)):
        _ip(
            dom0,
            run,
            f"link add {name} address {_PORT_MAC} mtu {mtu} type veth peer name {CARD} address {mac} mtu {mtu}"
            f" netns {place.path}",
            # An interface with an IPv6 address would send packets by itself.
            *([f"link set {name} addrgenmode none"] if has_ipv6() else []),
            f"link set {name} master {bridge}",
            f"link set {name} up",
        )
        _batch(
            dom0,
            run,
            "bridge",
            f"link set dev {name} learning off flood off mcast_flood off bcast_flood off",
            f"fdb replace {mac} dev {name} master static",
        )
    _ip(guest, run, *_lines(GUEST_ADDRESS, PEER_ADDRESS, PEER_MAC))
    _ip(peer, run, *_lines(PEER_ADDRESS, GUEST_ADDRESS, GUEST_MAC))
    for name in (GUEST, PEER):
        if not until(partial(_forwards, dom0, run, name), patience):
            raise XenbwError(f"{bridge} does not forward for a new port within {patience:g} s", "does it use STP?")
    ifindex = dom0.do(lambda: socket.if_nametoindex(GUEST))
    return Rig(dom0, guest, peer, Port(_DOMID, _DEVID, ifindex, GUEST))


def _lines(own: str, other: str, other_mac: str) -> tuple[str, ...]:
    return (
        f"addr add {own}/24 dev {CARD}",
        f"link set {CARD} up",
        f"neigh add {other} lladdr {other_mac} dev {CARD} nud permanent",
    )


def _forwards(dom0: Place, run: Runner, name: str) -> bool:
    answer = dom0.do(lambda: run(["bridge", "-json", "link", "show", "dev", name]))
    return answer.status == 0 and any(port.get("state") == "forwarding" for port in json.loads(answer.stdout or b"[]"))


def _filter_as_here(filtered: bool) -> Callable[[], None]:
    """Set whether iptables sees what bridges forward, as on this host: each network has its own setting."""

    def there() -> None:
        setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
        if setting.exists():
            setting.write_text("1" if filtered else "0", encoding="ascii")

    return there


def _ip(place: Place, run: Runner, *lines: str) -> None:
    _batch(place, run, "ip", *lines)


def _batch(place: Place, run: Runner, command: str, *lines: str) -> None:
    text = "\n".join(lines).encode("ascii")
    answer = place.do(lambda: run([command, "-batch", "-"], input=text))
    if answer.status != 0:
        raise XenbwError(f"the test network cannot be built: {command}: exit status {answer.status}", lines[0])
