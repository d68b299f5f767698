"""One call of the hook, at the start or end of a vif: record the binding, and block a blocked VM before returning.

The hook runs in the boot path of every VM. So it waits at most half a second for xenstored, which the vif script itself
just used, and half a second for the ledger's lock. It imports little, and no failure of it stops the VM's boot.
"""

from __future__ import annotations

import _socket  # socket without the enums and selectors around it, which take 5 ms to import
import os
import sqlite3
import time

from xenbw.blocks import latch_text, throttle_text, tripwire_text
from xenbw.errors import XenbwError
from xenbw.hook import gate
from xenbw.ledger import bindings
from xenbw.nft import nft
from xenbw.nft.pipe import hand_to_nft
from xenbw.rundir import overfile
from xenbw.rundir.latched import Marks
from xenbw.rundir.note import Note
from xenbw.rundir.overfile import Over
from xenbw.text import INCOMING, decode
from xenbw.vifs import nodes
from xenbw.xen import addresses, hotplug, identity, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xenbw.xen.hotplug import HotplugCall

_RUN_DIR = "/run/xenbw"
_STORE_PATIENCE, _LEDGER_PATIENCE = 0.5, 0.5
# Of the words in `ip=` that are not addresses, the log gets so many, and so many characters of each.
_WORDS, _SHOWN = 4, 64


class _Paths:
    """The run folder and the ledger's path: from the over file if the daemon wrote one, else from the configuration."""

    def __init__(self) -> None:
        self.run_dir, self.ledger = _RUN_DIR, ""
        # Reading TOML costs 15 ms, and the usual run folder is known. A second xenbw sets XENBW_CONFIG.
        if os.environ.get("XENBW_CONFIG") or not os.path.exists(f"{_RUN_DIR}/over"):
            self._from_config()
        self.over = self.read_over()
        if self.over is not None:
            self.ledger = self.over.ledger
        elif not self.ledger:
            self._from_config()

    def read_over(self) -> overfile.Over | None:
        """The present over file."""
        return overfile.read(f"{self.run_dir}/over")

    def _from_config(self) -> None:
        from xenbw import config

        try:
            settings = config.load()
        except XenbwError:
            settings = config.Settings()
        self.run_dir, self.ledger = str(settings.daemon.run_dir), str(settings.ledger.path)


class _Facts:
    """The vif and its domain, as the vif script and xenstore tell."""

    def __init__(self, call: HotplugCall) -> None:
        self.call = call
        backend = f"/local/domain/0/backend/vif/{call.domid}/{call.devid}"
        store = wire.Store(_STORE_PATIENCE)
        mac, ip = store.read(f"{backend}/mac"), store.read(f"{backend}/ip")
        self.failed = store.read(f"{backend}/hotplug-error") is not None  # the vif script failed, and so the domain
        name = store.read(f"/local/domain/{identity.served(store, call.domid)}/name")
        store.close()
        self.starts = call.command in ("online", "add")
        if name is None and self.starts:
            raise XenbwError(f"domain {call.domid} has no name in xenstore", "xenbwd will ask again")
        self.name = name or ""
        if self.name.endswith(INCOMING) and identity.received():
            self.name = self.name.removesuffix(INCOMING)
        # To the kernel a name is bytes. A name that is not UTF-8 is recorded in the spelling that xenbw shows.
        self.interface = decode(os.fsencode(call.interface))
        self.mac = mac or None
        self.ips, self.not_ips = addresses.parse(call.ips or ip or "")
        self.at = bindings.stamp(time.time())
        self.boot_id = _first_line("/proc/sys/kernel/random/boot_id")
        self.covered = False
        self.unannounced = False  # the vif ends, and its start was never recorded
        self.given: list[str] = []  # the addresses that the admin gave the VM, if they come or go with this vif
        self.inherits = False  # the domid belonged to a blocked VM before, and may still be latched
        self.ifindex = int(_first_line(f"/sys/class/net/{call.interface}/ifindex")) if self.starts else 0

    def cover(self, over: Over, *, sealed: bool) -> None:
        """Put our counters on the vif before the guest is connected, so that they count from its first byte. For a
        blocked VM also seal the vif, and latch the domain; else lead it to the VM's tripwires and throttle."""
        call = self.call
        if nft.can_name(self.interface):
            key = nft.key(call.domid, call.devid, self.ifindex)
            # The daemon may have put chains on the vif before the vif script renamed it.
            renamed = self.interface.removesuffix("-emu") != f"vif{call.domid}.{call.devid}"
            text = nft.unchain(key) if renamed else ""
            text += nft.cover(call.domid, call.devid, self.ifindex, self.interface, self.mac)
            text += gate.alias(self.name, self.ifindex, over)
            # Only the first vif after a boot or a flush finds no foundation, and with it the text is twice as long.
            attempts = [text, nft.foundation() + text]
            if sealed:
                allow = over.allow
                allowed = allow.of(self.name)
                text += nft.seal([self.ifindex]) + (nft.allow(key, self.ifindex, allowed) if allowed else "")
                own = latch_text.allow(call.domid, allowed) if self.name in allow.own else ""
                latched, founded = text + own + self._latch(), nft.foundation()
                founded += latch_text.foundation(allow.common)
                attempts = [latched, founded + latched, nft.foundation() + text]
            elif wires := over.tripwires.get(self.name):
                attempts = [*self._wired(text, wires, over.throttled.get(self.name)), *attempts]
            error = _nft(*attempts)
            self.covered = error is None
            if error is not None:
                _log(f"{self.interface}: neither sealed nor metered to its last byte: nft refuses its chains: {error}")

    def _wired(self, text: str, wires: Mapping[str, int], throttle: tuple[int, int, int] | None) -> list[str]:
        """The text, with the vif led to the VM's tripwires and throttle. wires: quota objects, with the bytes that each
        had left when xenbwd wrote the over file: one that is there knows better, and would get a wrong limit."""
        led = text + tripwire_text.fasten(self.ifindex, wires)
        founded = nft.foundation() + tripwire_text.foundation()
        if throttle is not None:
            led += throttle_text.fasten(self.ifindex, *throttle)
            founded += throttle_text.foundation()
        made = "".join(tripwire_text.quota(name, max(1, left)) for name, left in wires.items())
        return [led, founded + led, founded + made + led]

    def _latch(self) -> str:
        """Text that latches the domain, except vifs of other domains that have a name of this domain's vifs."""
        called = nodes.called_after({self.call.domid})
        others = [index for index, name, domid in called if nodes.owner(name) not in (None, domid)]
        return latch_text.ignore_names(others) + latch_text.latch([self.call.domid])

    def ignore_name(self) -> None:
        """If this vif has a name of another domain's vifs, make that domain's latch ignore it."""
        if nodes.named(self.interface) not in (None, self.call.domid):
            _nft(latch_text.ignore_names([self.ifindex]))

    def record(self, db: sqlite3.Connection, is_replaced: Callable[[], bool]) -> None:
        """Write the binding, or its end, to an open ledger. is_replaced: whether another file is at its path now.
        Raises sqlite3.Error."""
        call = self.call
        db.execute("BEGIN IMMEDIATE")
        if is_replaced():
            raise sqlite3.OperationalError("the daemon replaced a damaged ledger while it had the lock")
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
        if self.starts or not bindings.runs(db, self.boot_id, self.name):
            self.given = bindings.given(db, self.boot_id, self.name)
        self.inherits = self.starts and bindings.had_by_blocked(db, self.boot_id, call.domid, self.name)
        db.execute("COMMIT")

    def unlatch(self) -> None:
        """Remove the latch of a blocked VM that had this domid before."""
        _nft(latch_text.unlatch([self.call.domid]))

    def words(self) -> dict[str, str]:
        """The facts as a note for the daemon, which records them once the ledger can be written again."""
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
    """Hand nft one batch after the other until it accepts one. None, or nft's error at the last batch."""
    error = None
    for attempt in attempts:
        error = hand_to_nft(attempt)
        if error is None:
            break
    return error


def _log(text: str) -> None:
    """Write a line to the system's log. The caller has escaped all text from a guest or its config."""
    import syslog

    syslog.openlog("xenbw-hook", 0, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_ERR, text)


def _first_line(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.readline().strip()


def _inode(path: str) -> int:
    """Which file is at that path; 0 if none is."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _poke(run_dir: str) -> None:
    """Tell the daemon that there is news, without waiting for its answer."""
    stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        stream.setblocking(False)
        stream.connect(f"{run_dir}/xenbwd.sock")
        stream.send(b'{"op": "poke"}\n')
    except OSError:
        pass  # no daemon runs: it will find the record when it starts
    finally:
        stream.close()


def _shut(ifindex: int, run_dir: str) -> None:
    """Let nothing pass a vif, whatever becomes of nft's rules: by tc, or if that cannot be had by its link."""
    from xenbw.blocks.drop import Drop  # VMs in good standing do not need it

    try:
        Drop(run_dir).put(ifindex)
    except OSError:
        from xenbw.blocks.link import Link

        try:
            Link(run_dir).lower(ifindex)
        except OSError as error:
            _log(f"interface {ifindex}: its link cannot be taken down, so only rules hold it: {error}")


def _mark(change: Callable[[int], None], domid: int) -> None:
    """Add or remove the latch mark that udev's rule reads."""
    try:
        change(domid)
    except OSError:
        pass  # the hook pokes the daemon, which tries again and reports a failure


def _begin(facts: _Facts, note: Note) -> None:
    """Write a note of whose vif this is, by which the daemon claims its counters if the hook is killed too early."""
    try:
        note.begin({**facts.words(), "begun": "1"})
    except OSError:
        pass  # /run is full: the binding is still recorded unless the hook is killed


def _record(facts: _Facts, paths: _Paths, note: Note) -> None:
    """Write the binding, or its end, to the ledger; if that fails, leave a note for the daemon."""
    try:
        opened = _inode(paths.ledger)
        db = sqlite3.connect(f"file:{paths.ledger}?mode=rw", uri=True, isolation_level=None, timeout=_LEDGER_PATIENCE)
        db.execute("PRAGMA synchronous = NORMAL")
        # The daemon moves the WAL into the file, so that no VM's boot has to.
        db.execute("PRAGMA wal_autocheckpoint = 0")
        facts.record(db, lambda: _inode(paths.ledger) != opened)
        db.close()
        left = facts.unannounced  # the vif may have counters, which only the daemon reads
    except sqlite3.Error:
        left = True
    try:
        if left:
            note.leave(facts.words())
        else:
            note.withdraw()
    except OSError as error:
        _log(f"{facts.interface}: the note for xenbwd cannot be written or removed: {error}")


def _admit(facts: _Facts, paths: _Paths, read: Callable[[], Over | None]) -> None:
    for error in gate.admit(facts.name, [*facts.ips, *facts.given], paths.run_dir, read):
        _log(f"{facts.interface}: null routes are refused: {error}")


def run(env: dict[str, str]) -> None:
    """One call of the hook. Errors are raised; main writes them to the system's log."""
    call = hotplug.parse(env)
    paths = _Paths()
    facts = _Facts(call)
    note = Note(paths.run_dir, facts.at)
    if facts.starts:
        _begin(facts, note)
        # The daemon's over file comes first: it is the newest, and the ledger may be slow or broken.
        over = paths.over or gate.from_ledger(paths.ledger, facts.boot_id) or Over()
        sealed = facts.name in over.blocked
        if over.nft or sealed or facts.name in over.tripwires:
            facts.cover(over, sealed=sealed)
        if sealed and not over.allow.of(facts.name):
            _shut(facts.ifindex, paths.run_dir)
        if sealed:
            _mark(Marks(paths.run_dir).put, call.domid)
        # A blocked VM is null-routed before the ledger is opened, which may wait.
        if sealed and paths.over is not None:
            _admit(facts, paths, paths.read_over)
    _record(facts, paths, note)
    if facts.inherits and not sealed:
        facts.unlatch()
        _mark(Marks(paths.run_dir).clear, call.domid)
    # After the binding is recorded: a daemon that reconciles now comes to the same result.
    if facts.starts and not sealed:
        facts.ignore_name()
    # A blocked VM's former address is freed only now, or a daemon that reconciles now would block it again.
    if facts.starts and paths.over is None:
        _admit(facts, paths, lambda: gate.from_ledger(paths.ledger, facts.boot_id))
    elif facts.starts and not sealed:
        _admit(facts, paths, paths.read_over)
    _poke(paths.run_dir)
    if not facts.starts and paths.over is not None:
        gate.leave([*facts.ips, *facts.given], paths.run_dir, paths.over)
    if facts.starts and facts.not_ips:
        tell_of_addresses(facts)


def tell_of_addresses(facts: _Facts) -> None:
    """Log the words in a vif's `ip=` that are no addresses: a block has no null routes for them."""
    words = "; ".join(f"{word[:_SHOWN]!a} {addresses.why(word)}" for word in facts.not_ips[:_WORDS])
    _log(f"{facts.name!a}, {facts.interface!a}: not taken of its ip=: {words}; see xenbw-addvm VM --ip ADDR")


def main() -> None:
    """Entry point of /usr/lib/xenbw/vif-hook. Never fails, since a VM's boot runs it."""
    try:
        run(dict(os.environ))
    except Exception as error:  # noqa: BLE001 (a VM must boot whatever fails here)
        _log(f"{os.environ.get('XENBUS_PATH')}: {type(error).__name__}: {error}")
