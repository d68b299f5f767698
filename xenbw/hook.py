"""What Xen's vif scripts call at each vif's start and end: record the binding, and block a blocked VM before returning.

It runs in the boot path of every VM. So it waits for nobody (xenstored, which the vif script itself just used, for a
moment; the ledger's lock for half a second), imports little, and whatever fails leaves the VM's boot alone.
"""

from __future__ import annotations

import _socket  # socket without the enums and selectors around it, which take 5 ms to import
import fcntl
import os
import sqlite3
import time

from xenbw.enforce import overfile, restore
from xenbw.net import addresses
from xenbw.store import bindings
from xenbw.xen import hotplug, xswire
from xenbw.xen.text import base_name, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenbw.xen.hotplug import HotplugCall

_RUN_DIR = "/run/xenbw"
_STORE_PATIENCE = 0.5
_LEDGER_PATIENCE = 0.5
_TURN_PATIENCE = 0.5


class _Paths:
    """Where things are: from the over file if the daemon wrote one, else from the configuration."""

    def __init__(self) -> None:
        self.run_dir, self.ledger = _RUN_DIR, ""
        # Reading TOML costs 15 ms; a second instance names its configuration, everyone else has these places.
        if os.environ.get("XENBW_CONFIG") or not os.path.exists(f"{_RUN_DIR}/over"):
            self._from_config()
        self.over_file = f"{self.run_dir}/over"
        self.over = overfile.read(self.over_file)
        if self.over is not None and self.over.ledger:
            self.ledger = self.over.ledger

    def _from_config(self) -> None:
        from xenbw import config
        from xenbw.errors import XenbwError

        try:
            settings = config.load()
        except XenbwError:
            settings = config.Settings()
        self.run_dir, self.ledger = str(settings.daemon.run_dir), str(settings.ledger.path)


class _Facts:
    """What is known of the vif and its domain."""

    def __init__(self, call: HotplugCall) -> None:
        self.call = call
        backend = f"/local/domain/0/backend/vif/{call.domid}/{call.devid}"
        mac, ip, name = xswire.read(
            (f"{backend}/mac", f"{backend}/ip", f"/local/domain/{call.domid}/name"), _STORE_PATIENCE
        )
        self.name = base_name(decode(name or b""))
        self.mac = decode(mac) if mac else None
        self.ips = addresses.parse(call.ips or decode(ip or b""))[0]
        self.starts = call.command in ("online", "add")
        self.at = bindings.stamp(time.time())
        self.boot_id = _first_line("/proc/sys/kernel/random/boot_id")
        self.ifindex = int(_first_line(f"/sys/class/net/{call.interface}/ifindex")) if self.starts else 0

    def record(self, db: sqlite3.Connection) -> None:
        """Write the binding, or its end, into the ledger."""
        call = self.call
        db.execute("BEGIN IMMEDIATE")
        rev = bindings.next_rev(db)
        if self.starts:
            bindings.bind(
                db,
                name=self.name,
                boot_id=self.boot_id,
                domid=call.domid,
                devid=call.devid,
                kind=call.kind,
                ifindex=self.ifindex,
                interface=call.interface,
                mac=self.mac,
                ips=" ".join(self.ips),
                bridge=call.bridge,
                at=self.at,
                rev=rev,
            )
        else:
            bindings.unbind(
                db,
                boot_id=self.boot_id,
                domid=call.domid,
                devid=call.devid,
                kind=call.kind,
                at=self.at,
                reason=call.command,
                rev=rev,
            )
        db.execute("COMMIT")

    def spool(self, run_dir: str) -> None:
        """Leave word for the daemon, which records it in the ledger when that can be written again."""
        call = self.call
        words = {
            "starts": str(int(self.starts)),
            "name": self.name,
            "boot_id": self.boot_id,
            "domid": str(call.domid),
            "devid": str(call.devid),
            "kind": call.kind,
            "ifindex": str(self.ifindex),
            "interface": call.interface,
            "mac": self.mac or "",
            "ips": " ".join(self.ips),
            "bridge": call.bridge or "",
            "at": self.at,
        }
        folder = f"{run_dir}/pending"
        os.makedirs(folder, exist_ok=True)
        path = f"{folder}/{self.at}.{os.getpid()}"
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.writelines(f"{key}\t{overfile.escape(value)}\n" for key, value in words.items())
        os.replace(f"{path}.new", path)


def _first_line(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.readline().strip()


def _keep_out(facts: _Facts, paths: _Paths, over: overfile.Over) -> None:
    """Null-route the VM's addresses, together with all the others that the over file lists."""
    allowed = _blockable(facts.ips, over)
    known = over.blocked.setdefault(facts.name, [])
    news = overfile.blocked_line(facts.name, allowed) if set(allowed) - set(known) or not known else ""
    known.extend(allowed)
    _write_chain(paths, over, news, allowed)


def _let_in(facts: _Facts, paths: _Paths, over: overfile.Over) -> None:
    """The VM is in good standing: none of its addresses stays blocked for a former owner's debt."""
    everyone = over.addresses()
    debts = [ip for ip in facts.ips if ip in everyone]
    if debts:
        over.held.update(debts)
        _write_chain(paths, over, overfile.held_line(debts), debts)


def _write_chain(paths: _Paths, over: overfile.Over, news: str, concerned: list[str]) -> None:
    """Add the news to the over file and put the file's null routes into the kernel, for the families concerned.

    Hooks side by side do so one after the other, each with the file as it is by then, or the last would undo what the
    others wrote. A turn takes some 10 ms; who got none for half a second goes on without.
    """
    lock = -1
    try:
        os.makedirs(paths.run_dir, exist_ok=True)
        lock = os.open(f"{paths.run_dir}/over.lock", os.O_RDWR | os.O_CREAT, 0o600)
        _take_turn(lock)
        if news:
            overfile.append(paths.over_file, news)
        over = overfile.read(paths.over_file) or over
    except OSError:
        pass  # a full /run: what this call knows is put into the kernel all the same
    for version in {restore.family(ip) for ip in concerned}:
        restore.write_chain(version, over.addresses())
    if lock >= 0:
        os.close(lock)


def _take_turn(lock: int) -> None:
    limit = time.monotonic() + _TURN_PATIENCE
    while time.monotonic() < limit:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.005)
        else:
            return


def _blockable(ips: list[str], over: overfile.Over) -> list[str]:
    """The addresses that may be blocked: not dom0's and its helpers', not held by a VM in good standing."""
    from ipaddress import ip_address, ip_network

    protected = [ip_network(word) for word in over.protected]
    return [
        ip
        for ip in ips
        if ip not in over.held
        and not any(ip_address(ip) in network for network in protected)
        and not (ip_address(ip).is_loopback or ip_address(ip).is_unspecified or ip_address(ip).is_multicast)
    ]


def _poke(run_dir: str) -> None:
    """Tell the daemon that there is news, without waiting for it."""
    stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        stream.setblocking(False)
        stream.connect(f"{run_dir}/xenbwd.sock")
        stream.send(b'{"op": "poke"}\n')
    except OSError:
        pass  # no daemon: what was recorded is found at its start
    finally:
        stream.close()


def run(env: dict[str, str]) -> None:
    """One call of the hook. Raises whatever goes wrong; main turns it into a line for the system's log."""
    call = hotplug.parse(env)
    paths = _Paths()
    facts = _Facts(call)
    over = paths.over or overfile.Over()
    blocked = facts.name in over.blocked
    if facts.starts and blocked:
        _keep_out(facts, paths, over)
    try:
        db = sqlite3.connect(f"file:{paths.ledger}?mode=rw", uri=True, isolation_level=None, timeout=_LEDGER_PATIENCE)
        db.execute("PRAGMA synchronous = NORMAL")
        # Moving the WAL into the file is the daemon's work, not a booting VM's.
        db.execute("PRAGMA wal_autocheckpoint = 0")
        # With a daemon's file at hand, that file is the last word; without one, the ledger is.
        if facts.starts and not blocked and paths.over is None and bindings.is_blocked(db, facts.name):
            blocked = True
            _keep_out(facts, paths, over)
        facts.record(db)
        db.close()
    except sqlite3.Error:
        facts.spool(paths.run_dir)
    if facts.starts and not blocked:
        _let_in(facts, paths, over)
    _poke(paths.run_dir)


def main() -> None:
    """Entry point of /usr/lib/xenbw/vif-hook. Never fails: its caller is a VM's boot."""
    try:
        run(dict(os.environ))
    except Exception as error:  # noqa: BLE001 (a VM must boot whatever is wrong with us)
        import syslog

        syslog.openlog("xenbw-hook", 0, syslog.LOG_DAEMON)
        syslog.syslog(syslog.LOG_ERR, f"{os.environ.get('XENBUS_PATH')}: {type(error).__name__}: {error}")
