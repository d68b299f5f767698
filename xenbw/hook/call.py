"""What Xen's vif scripts call at each vif's start and end: record the binding, and block a blocked VM before returning.

It runs in the boot path of every VM. So it waits for nobody (xenstored, which the vif script itself just used, for a
moment; the ledger's lock for half a second), imports little, and whatever fails leaves the VM's boot alone.
"""

from __future__ import annotations

import _socket  # socket without the enums and selectors around it, which take 5 ms to import
import os
import sqlite3
import time

from xenbw.blocks import latch_text
from xenbw.blocks.link import Link
from xenbw.errors import XenbwError
from xenbw.hook import gate
from xenbw.ledger import bindings
from xenbw.nft import nft
from xenbw.nft.pipe import feed
from xenbw.rundir import overfile
from xenbw.rundir.latched import Marks
from xenbw.rundir.note import Note
from xenbw.rundir.overfile import Over
from xenbw.text import INCOMING, decode
from xenbw.vifs import nodes
from xenbw.xen import addresses, hotplug, identity, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from xenbw.allow import Exceptions
    from xenbw.xen.hotplug import HotplugCall

_RUN_DIR = "/run/xenbw"
_STORE_PATIENCE = 0.5
_LEDGER_PATIENCE = 0.5
# Of what in `ip=` is no address, so many words and characters of each go into the log.
_WORDS, _SHOWN = 4, 64


class _Paths:
    """Where things are: from the over file if the daemon wrote one, else from the configuration."""

    def __init__(self) -> None:
        self.run_dir, self.ledger = _RUN_DIR, ""
        # Reading TOML costs 15 ms; a second instance names its configuration, everyone else has these places.
        if os.environ.get("XENBW_CONFIG") or not os.path.exists(f"{_RUN_DIR}/over"):
            self._from_config()
        self.over = self.read_over()
        if self.over is not None:
            self.ledger = self.over.ledger
        elif not self.ledger:
            self._from_config()

    def read_over(self) -> overfile.Over | None:
        """What the daemon's file says now."""
        return overfile.read(f"{self.run_dir}/over")

    def _from_config(self) -> None:
        from xenbw import config

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
        store = wire.Store(_STORE_PATIENCE)
        mac, ip = store.read(f"{backend}/mac"), store.read(f"{backend}/ip")
        self.failed = store.read(f"{backend}/hotplug-error") is not None  # its script, and with it the domain's start
        name = store.read(f"/local/domain/{identity.served(store, call.domid)}/name")
        store.close()
        self.starts = call.command in ("online", "add")
        if name is None and self.starts:
            raise XenbwError(f"domain {call.domid} has no name in xenstore", "the daemon will look again")
        self.name = name or ""
        if self.name.endswith(INCOMING) and identity.received():
            self.name = self.name.removesuffix(INCOMING)
        # A name is bytes to the kernel; one that is no UTF-8 is recorded as it is shown everywhere.
        self.interface = decode(os.fsencode(call.interface))
        self.mac = mac or None
        self.ips, self.not_ips = addresses.parse(call.ips or ip or "")
        self.at = bindings.stamp(time.time())
        self.boot_id = _first_line("/proc/sys/kernel/random/boot_id")
        self.covered = False
        self.unannounced = False  # it ends, and nobody recorded that it began
        self.inherits = False  # its domid was that of a blocked VM, which is latched by it
        self.ifindex = int(_first_line(f"/sys/class/net/{call.interface}/ifindex")) if self.starts else 0

    def cover(self, allow: Exceptions, *, sealed: bool) -> None:
        """Put our counters on the vif before the guest is connected, so that they have it from its first byte, and a
        seal if it is to have nothing, with a latch for what its domain may yet get."""
        call = self.call
        if nft.can_name(self.interface):
            key = nft.key(call.domid, call.devid, self.ifindex)
            # The daemon may have put them on the interface before its script renamed it.
            renamed = self.interface.removesuffix("-emu") != f"vif{call.domid}.{call.devid}"
            text = nft.unchain(key) if renamed else ""
            text += nft.cover(call.domid, call.devid, self.ifindex, self.interface, self.mac)
            # The first vif of a boot, and one after a flush, finds no foundation: that is twice as long a text.
            attempts = [text, nft.foundation() + text]
            if sealed:
                mine = allow.of(self.name)
                text += nft.seal([(key, self.ifindex)]) + (nft.allow(key, self.ifindex, mine) if mine else "")
                own = latch_text.allow(call.domid, mine) if self.name in allow.own else ""
                latched, founded = text + own + self._latch(), nft.foundation()
                founded += latch_text.foundation(allow.common)
                attempts = [latched, founded + latched, nft.foundation() + text]
            said = _nft(*attempts)
            self.covered = said is None
            if said is not None:
                _log(f"{self.interface}: neither sealed nor metered to its last byte: nft refuses its chains: {said}")

    def _latch(self) -> str:
        """Latch the domain, but for cards of others that are only called after it."""
        called = nodes.called_after({self.call.domid})
        others = [index for index, name, domid in called if nodes.owner(name) not in (None, domid)]
        return latch_text.ignore_names(others) + latch_text.latch([self.call.domid])

    def excuse(self) -> None:
        """Have a latch on the domain that this card is called after, if there is one, not hold it."""
        if nodes.named(self.interface) not in (None, self.call.domid):
            _nft(latch_text.ignore_names([self.ifindex]))

    def record(self, db: sqlite3.Connection) -> None:
        """Write the binding, or its end, into the ledger."""
        call = self.call
        db.execute("BEGIN IMMEDIATE")
        rev = bindings.next_rev(db)
        if self.starts:
            new = bindings.NewBinding(
                name=self.name,
                boot_id=self.boot_id,
                domid=call.domid,
                devid=call.devid,
                kind=call.kind,
                ifindex=self.ifindex,
                interface=self.interface,
                mac=self.mac,
                ips=" ".join(self.ips),
                bridge=call.bridge,
                own=bindings.COUNTED if self.covered else None,
            )
            bindings.bind(db, new, at=self.at, rev=rev)
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
            known = bindings.known(db, self.boot_id, call.domid, call.devid, call.kind)
            self.unannounced = bool(self.name) and not known and not self.failed
        self.inherits = self.starts and bindings.had_by_blocked(db, self.boot_id, call.domid, self.name)
        db.execute("COMMIT")

    def unlatch(self) -> None:
        """Take away what a blocked VM left to whoever has its domid next."""
        _nft(latch_text.unlatch([self.call.domid]))

    def words(self) -> dict[str, str]:
        """The same for the daemon, which records it in the ledger when that can be written again."""
        call = self.call
        return {
            "starts": str(int(self.starts)),
            "name": self.name,
            "boot_id": self.boot_id,
            "domid": str(call.domid),
            "devid": str(call.devid),
            "kind": call.kind,
            "ifindex": str(self.ifindex),
            "interface": self.interface,
            "mac": self.mac or "",
            "ips": " ".join(self.ips),
            "bridge": call.bridge or "",
            "at": self.at,
            "covered": str(int(self.covered)),
            "unannounced": str(int(self.unannounced)),
        }


def _nft(*attempts: str) -> str | None:
    """Hand nft batches, until it takes one; what it says against the last, or None."""
    said = None
    for attempt in attempts:
        said = feed(["nft", "-f", "-"], attempt.encode("ascii"), {})
        if said is None:
            break
    return said


def _log(text: str) -> None:
    """A line for the system's log. What a guest or its config says in it is escaped by the caller."""
    import syslog

    syslog.openlog("xenbw-hook", 0, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_ERR, text)


def _first_line(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.readline().strip()


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


def _mark(change: Callable[[int], None], domid: int) -> None:
    """Have udev know, or no more, that a domain is latched: the least of what is done here."""
    try:
        change(domid)
    except OSError:
        pass  # the daemon, which is poked, tries it again and tells


def _begin(facts: _Facts, note: Note) -> None:
    """Leave word whose vif it is, should this not live to record it. Counters that stand by then are found by the
    daemon."""
    try:
        note.begin({**facts.words(), "begun": "1"})
    except OSError:
        pass  # a full /run: it is recorded all the same, if nobody kills us


def _record(facts: _Facts, paths: _Paths, note: Note) -> None:
    """Write the binding, or its end, into the ledger; where that fails, leave word for the daemon."""
    try:
        db = sqlite3.connect(f"file:{paths.ledger}?mode=rw", uri=True, isolation_level=None, timeout=_LEDGER_PATIENCE)
        db.execute("PRAGMA synchronous = NORMAL")
        # Moving the WAL into the file is the daemon's work, not a booting VM's.
        db.execute("PRAGMA wal_autocheckpoint = 0")
        facts.record(db)
        db.close()
    except sqlite3.Error:
        note.leave(facts.words())
    else:
        # A life that nobody announced may have counters, which only the daemon reads.
        if facts.unannounced:
            note.leave(facts.words())
        else:
            note.withdraw()


def _admit(facts: _Facts, paths: _Paths, read: Callable[[], Over | None]) -> None:
    for said in gate.admit(facts.name, facts.ips, paths.run_dir, read):
        _log(f"{facts.interface}: iptables refuses null routes: {said}")


def run(env: dict[str, str]) -> None:
    """One call of the hook. Raises whatever goes wrong; main turns it into a line for the system's log."""
    call = hotplug.parse(env)
    paths = _Paths()
    facts = _Facts(call)
    note = Note(paths.run_dir, facts.at)
    if facts.starts:
        _begin(facts, note)
        # The daemon's file is the last word, and is there before the ledger, which may be slow or broken.
        over = paths.over or gate.from_ledger(paths.ledger, facts.boot_id) or Over()
        sealed = facts.name in over.blocked
        if over.nft or sealed:
            facts.cover(over.allow, sealed=sealed)
        if sealed and not over.allow.of(facts.name):
            Link(paths.run_dir).lower(facts.ifindex)
        if sealed:
            _mark(Marks(paths.run_dir).put, call.domid)
        # A blocked VM's block waits for no ledger.
        if sealed and paths.over is not None:
            _admit(facts, paths, paths.read_over)
    _record(facts, paths, note)
    if facts.inherits and not sealed:
        facts.unlatch()
        _mark(Marks(paths.run_dir).clear, call.domid)
    # With the binding to be read, a daemon that looks just then finds the same.
    if facts.starts and not sealed:
        facts.excuse()
    # Another's address is freed when all can read whose it is now, or a daemon that looks just then blocks it again.
    if facts.starts and paths.over is None:
        _admit(facts, paths, lambda: gate.from_ledger(paths.ledger, facts.boot_id))
    elif facts.starts and not sealed:
        _admit(facts, paths, paths.read_over)
    _poke(paths.run_dir)
    if not facts.starts and paths.over is not None:
        gate.leave(facts.ips, paths.run_dir, paths.over)
    if facts.starts and facts.not_ips:
        tell_of_addresses(facts)


def tell_of_addresses(facts: _Facts) -> None:
    """Say in the system's log what in a vif's `ip=` was not taken: a block null-routes nothing for it."""
    words = "; ".join(f"{word[:_SHOWN]!a} {addresses.why(word)}" for word in facts.not_ips[:_WORDS])
    _log(f"{facts.name!a}, {facts.interface!a}: not taken of its ip=: {words}; see xenbw-addvm VM --ip ADDR")


def main() -> None:
    """Entry point of /usr/lib/xenbw/vif-hook. Never fails: its caller is a VM's boot."""
    try:
        run(dict(os.environ))
    except Exception as error:  # noqa: BLE001 (a VM must boot whatever is wrong with us)
        _log(f"{os.environ.get('XENBUS_PATH')}: {type(error).__name__}: {error}")
