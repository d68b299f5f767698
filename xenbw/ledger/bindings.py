"""The statements on bindings and blocks that the hook and the daemon share.

Every import slows the boot of a VM down, so this module takes a sqlite3 connection and plain values, and imports only
time.
"""

from __future__ import annotations

import time

# The own_last of a binding whose counters, ours and the kernel's, stand at zero.
COUNTED = "0 0 0 0 0 0 0"
# The key in meta of the VMs that used another MAC: pairs of a VM's id and until when others may remember it, in seconds
# since 1970.
ALIASED = "aliased"
_OWN_SINCE, _ALLOWED_SINCE, _THROTTLED_SINCE = 2, 3, 4  # schemas that brought binding.own_last, vm.allow, vm.rate

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3


def stamp(seconds: float) -> str:
    """A wall time in seconds, as the ledger writes it: UTC, fixed width, so that text order is time order."""
    whole, micro = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{micro:06d}+00:00"


def next_rev(db: sqlite3.Connection) -> int:
    """The number of this transaction, which every row that it changes gets."""
    row = db.execute("UPDATE meta SET value = value + 1 WHERE key = 'rev' RETURNING value").fetchone()
    return int(row[0])


def meet(db: sqlite3.Connection, name: str, at: str, rev: int) -> int:
    """The id of the VM of that name. A new name gets a new row, as a VM that nobody added."""
    row = db.execute("SELECT id FROM vm WHERE name = ? AND retired_at IS NULL", (name,)).fetchone()
    if row is None:
        row = db.execute(
            "INSERT INTO vm (name, found_at, rev) VALUES (?, ?, ?) RETURNING id", (name, at, rev)
        ).fetchone()
    return int(row[0])


class NewBinding:
    """An interface that belongs to a VM from now on.

    name: the VM's. ips: its addresses, separated by spaces. baseline: raw bytes (in, out) that are not charged. since:
    the earliest moment at which its bytes can have passed, if that is not the moment of the binding. own: COUNTED if
    our counters stood on the interface before its first byte.
    """

    __slots__ = (
        *("name", "boot_id", "domid", "devid", "kind", "ifindex", "interface"),
        *("mac", "ips", "bridge", "baseline", "since", "own"),
    )

    def __init__(
        self,
        *,
        name: str,
        boot_id: str,
        domid: int,
        devid: int,
        kind: str,
        ifindex: int,
        interface: str,
        mac: str | None = None,
        ips: str = "",
        bridge: str | None = None,
        baseline: tuple[int, int] = (0, 0),
        since: str | None = None,
        own: str | None = None,
    ) -> None:
        self.name, self.boot_id, self.domid, self.devid, self.kind = name, boot_id, domid, devid, kind
        self.ifindex, self.interface, self.mac, self.ips, self.bridge = ifindex, interface, mac, ips, bridge
        self.baseline, self.since, self.own = baseline, since, own


def bind(db: sqlite3.Connection, new: NewBinding, *, at: str, rev: int) -> int:
    """Record that an interface belongs to a VM. Returns the binding's id. Repeating it changes nothing.

    If the interface is bound to another VM (`xl rename`), that binding ends, and the new one goes on from the same
    counters.
    """
    vm_id = meet(db, new.name, at, rev)
    known = db.execute(
        "SELECT id, vm_id FROM binding WHERE boot_id = ? AND ifindex = ? AND ended_at IS NULL",
        (new.boot_id, new.ifindex),
    ).fetchone()
    if known is not None and known[1] == vm_id:
        db.execute(
            "UPDATE binding SET interface = ?, mac = coalesce(?, mac), bridge = coalesce(?, bridge),"
            " ips = CASE ? WHEN '' THEN ips ELSE ? END, rev = ? WHERE id = ?",
            (new.interface, new.mac, new.bridge, new.ips, new.ips, rev, known[0]),
        )
        return int(known[0])
    if known is not None:
        _end(db, known[0], at, "renamed", rev)
    # An interface that was bound before is the same device: its counters go on from their last reading.
    before = db.execute(
        "SELECT id, last_in, last_out FROM binding WHERE boot_id = ? AND ifindex = ? ORDER BY id DESC LIMIT 1",
        (new.boot_id, new.ifindex),
    ).fetchone()
    baseline = new.baseline if before is None else (before[1], before[2])
    vif = (new.boot_id, new.domid, new.devid, new.kind, new.ifindex, new.interface, new.mac, new.ips, new.bridge)
    row = db.execute(
        "INSERT INTO binding (vm_id, boot_id, domid, devid, kind, ifindex, interface, mac, ips, bridge, started_at,"
        " last_at, last_in, last_out, rev) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (vm_id, *vif, at, new.since or at, *baseline, rev),
    ).fetchone()
    # During an upgrade the hook may find a ledger without the column: then the kernel's counters are the measure.
    if db.execute("PRAGMA user_version").fetchone()[0] >= _OWN_SINCE:
        if before is not None:
            db.execute(
                "UPDATE binding SET own_last = (SELECT own_last FROM binding WHERE id = ?) WHERE id = ?",
                (before[0], row[0]),
            )
        elif new.own is not None:
            db.execute("UPDATE binding SET own_last = ? WHERE id = ?", (new.own, row[0]))
    return int(row[0])


def unbind(
    db: sqlite3.Connection, *, boot_id: str, domid: int, devid: int, kind: str, at: str, reason: str, rev: int
) -> None:
    """Record the end of an interface's life. The daemon writes its counters.

    A vif that is detached and attached again has the same domid and devid, so an end that is recorded late does not end
    a binding that began after it.
    """
    rows = db.execute(
        "SELECT id FROM binding WHERE boot_id = ? AND domid = ? AND devid = ? AND kind = ? AND ended_at IS NULL"
        " AND started_at <= ?",
        (boot_id, domid, devid, kind, at),
    ).fetchall()
    for (binding_id,) in rows:
        _end(db, binding_id, at, reason, rev)


def known(db: sqlite3.Connection, boot_id: str, domid: int, devid: int, kind: str) -> bool:
    """Whether any binding of that vif of a domain was ever recorded."""
    rows = db.execute(
        "SELECT 1 FROM binding WHERE boot_id = ? AND domid = ? AND devid = ? AND kind = ? LIMIT 1",
        (boot_id, domid, devid, kind),
    )
    return rows.fetchone() is not None


def _end(db: sqlite3.Connection, binding_id: int, at: str, reason: str, rev: int) -> None:
    db.execute("UPDATE binding SET ended_at = ?, end_reason = ?, rev = ? WHERE id = ?", (at, reason, rev, binding_id))


def end(db: sqlite3.Connection, binding_id: int, at: str, reason: str, rev: int) -> None:
    """Record the end of one binding, unless it has ended already."""
    row = db.execute("SELECT 1 FROM binding WHERE id = ? AND ended_at IS NULL", (binding_id,)).fetchone()
    if row is not None:
        _end(db, binding_id, at, reason, rev)


def blocked(db: sqlite3.Connection) -> dict[str, list[str]]:
    """The blocked VMs by name, with their addresses: those that the admin gave, and those of the newest bindings."""
    found: dict[str, list[str]] = {}
    for name, given, ips in db.execute(
        "SELECT vm.name, vm.ips, binding.ips FROM vm JOIN block ON block.vm_id = vm.id AND block.lifted_at IS NULL"
        " LEFT JOIN binding AS head ON head.id = (SELECT max(id) FROM binding WHERE vm_id = vm.id)"
        " LEFT JOIN binding ON binding.vm_id = vm.id"
        " AND binding.boot_id = head.boot_id AND binding.domid = head.domid"
        " WHERE vm.retired_at IS NULL"
    ):
        found.setdefault(name, []).extend(f"{given} {ips or ''}".split())
    return found


def allowed(db: sqlite3.Connection) -> dict[str, list[str]]:
    """The networks that blocked VMs with an allow list of their own may reach, by VM."""
    # During an upgrade the ledger may still have the schema before.
    if db.execute("PRAGMA user_version").fetchone()[0] < _ALLOWED_SINCE:
        return {}
    rows = db.execute(
        "SELECT vm.name, vm.allow FROM vm JOIN block ON block.vm_id = vm.id AND block.lifted_at IS NULL"
        " WHERE vm.retired_at IS NULL AND vm.allow IS NOT NULL"
    )
    return {name: networks.split() for name, networks in rows}


def throttled(db: sqlite3.Connection) -> dict[str, tuple[int, int, int]]:
    """The throttled VMs by name: the id, and the bits per second to the guest and from it."""
    if db.execute("PRAGMA user_version").fetchone()[0] < _THROTTLED_SINCE:
        return {}
    default_in, default_out = map(int, networks(db, "rates") or "00")
    rows = db.execute("SELECT id, name, rate, rate_in FROM vm WHERE state = 'throttled' AND retired_at IS NULL")
    found = {name: (id_, rate_in or rate or default_in, rate or default_out) for id_, name, rate, rate_in in rows}
    return {name: throttle for name, throttle in found.items() if all(throttle)}


def had_by_blocked(db: sqlite3.Connection, boot_id: str, domid: int, name: str) -> bool:
    """Whether the domid belonged, in this boot, to a VM of another name that is blocked now."""
    rows = db.execute(
        "SELECT 1 FROM block CROSS JOIN binding ON binding.vm_id = block.vm_id JOIN vm ON vm.id = block.vm_id"
        " WHERE block.lifted_at IS NULL AND binding.boot_id = ? AND binding.domid = ? AND vm.name != ? LIMIT 1",
        (boot_id, domid, name),
    )
    return rows.fetchone() is not None


def held(db: sqlite3.Connection, boot_id: str) -> set[str]:
    """The addresses of running VMs that are not blocked: those that they run with, and those that the admin gave them
    unless a blocked VM runs with them (desired.plan)."""
    vifs = _running(db, boot_id)
    live = {address for ips, _, is_blocked in vifs if not is_blocked for address in ips.split()}
    given = {address for _, ips, is_blocked in vifs if not is_blocked for address in ips.split()}
    return live | given - _live_of_blocked(vifs)


def given(db: sqlite3.Connection, boot_id: str, name: str) -> list[str]:
    """The addresses that the admin gave a VM, without those that a blocked VM runs with."""
    row = db.execute("SELECT ips FROM vm WHERE name = ? AND retired_at IS NULL", (name,)).fetchone()
    if row is None or not row[0]:
        return []  # nearly always, at each boot of a VM
    taken = _live_of_blocked(_running(db, boot_id))
    return [address for address in row[0].split() if address not in taken]


def _running(db: sqlite3.Connection, boot_id: str) -> list[tuple[str, str, int]]:
    """Of each vif that has not ended: its addresses, those that the admin gave its VM, and whether that is blocked."""
    return db.execute(
        "SELECT binding.ips, vm.ips,"
        " EXISTS (SELECT 1 FROM block WHERE block.vm_id = binding.vm_id AND lifted_at IS NULL)"
        " FROM binding JOIN vm ON vm.id = binding.vm_id WHERE ended_at IS NULL AND boot_id = ?",
        (boot_id,),
    ).fetchall()


def _live_of_blocked(vifs: list[tuple[str, str, int]]) -> set[str]:
    return {address for ips, _, is_blocked in vifs if is_blocked for address in ips.split()}


def runs(db: sqlite3.Connection, boot_id: str, name: str) -> bool:
    """Whether a VM has a vif that has not ended."""
    rows = db.execute(
        "SELECT 1 FROM vm JOIN binding ON binding.vm_id = vm.id AND ended_at IS NULL AND boot_id = ?"
        " WHERE name = ? AND retired_at IS NULL LIMIT 1",
        (boot_id, name),
    )
    return rows.fetchone() is not None


def pairs(value: object) -> dict[int, int]:
    """The numbers in a value of meta, as pairs; none if it is damaged or missing."""
    words = str(value or "").split()
    if len(words) % 2 or not all(word.isdecimal() and len(word) < 12 for word in words):
        return {}
    return dict(zip(map(int, words[::2]), map(int, words[1::2]), strict=True))


def aliased(db: sqlite3.Connection) -> dict[str, int]:
    """The VMs that used another MAC, by name: until when others may remember it, in seconds since 1970."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (ALIASED,)).fetchone()
    until = pairs(row[0]) if row else {}
    names = db.execute("SELECT id, name FROM vm WHERE retired_at IS NULL").fetchall() if until else []
    return {name: until[vm_id] for vm_id, name in names if vm_id in until}


def networks(db: sqlite3.Connection, kind: str) -> list[str]:
    """The networks of a kind, as the daemon last wrote them: "protected", which are never blocked, or "allow", which
    blocked VMs may reach; or "null_routes": the method by which addresses are null-routed, if it is known."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (kind,)).fetchone()
    return [] if row is None else str(row[0]).split()
