"""The hooks' calls that the daemon records: a hook that could not write into the ledger left a file of words."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

from xenbw.ledger import sound, viflog
from xenbw.ledger.bindings import COUNTED, NewBinding
from xenbw.ledger.ledger import Ledger
from xenbw.model import Kind, Life
from xenbw.rundir import pending
from xenbw.vifs import interfaces
from xenbw.vifs.orphans import Orphans

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """What a hook was called for: the beginning of an interface's life, or its end.

    ips: separated by spaces. covered: our counters stood before the first byte. begun: the hook was killed before it
    was done. unannounced: an end whose beginning is not in the ledger.
    """

    at: datetime
    boot_id: str
    life: Life
    kind: Kind
    name: str
    interface: str
    mac: str | None
    ips: str
    bridge: str | None
    starts: bool
    covered: bool
    begun: bool
    unannounced: bool


def read(path: Path) -> Call:
    """The call in a file. Raises OSError, KeyError, or ValueError for a value that the ledger could not give back."""
    words = pending.words(path)
    life = Life(*(int(words[key]) for key in Life._fields))
    if not all(sound.whole(number, beyond=2**31) for number in life):
        raise ValueError(f"numbers out of range: {life}")
    if not sound.time(words["at"]):
        raise ValueError(f"not a time: {words['at']!r}")
    for word in words["ips"].split():
        ip_address(word)
    if not all(sound.text(value) for value in words.values()):
        raise ValueError("not a text")
    return Call(
        at=datetime.fromisoformat(words["at"]),
        boot_id=words["boot_id"],
        life=life,
        kind=Kind(words["kind"]),
        name=words["name"],
        interface=words["interface"],
        mac=words["mac"] or None,
        ips=words["ips"],
        bridge=words["bridge"] or None,
        starts=words["starts"] == "1",
        covered=words.get("covered") == "1",
        begun=words.get("begun") == "1",
        unannounced=words.get("unannounced") == "1",
    )


class Calls:
    """Records the calls in a folder. orphans: takes the lives that only their end tells of."""

    def __init__(self, ledger: Ledger, boot_id: str, orphans: Orphans, sysfs: Path = interfaces.SYSFS) -> None:
        self._ledger, self._boot_id, self._orphans, self._sysfs = ledger, boot_id, orphans, sysfs

    def take(self, folder: Path) -> int:
        """Record the calls. Returns how many files there were. Raises LedgerError."""
        files = pending.files(folder)
        for path in files:
            try:
                call = read(path)
            except FileNotFoundError:
                continue  # another program removed the file since it was listed
            except (OSError, ValueError, KeyError) as error:
                log.error("%s: not understood (%r), moved to %s", path, error, pending.set_aside(path).parent)
            else:
                if call.starts:
                    self._begin(call)
                else:
                    self._end(call)
                path.unlink(missing_ok=True)
        return len(files)

    def _begin(self, call: Call) -> None:
        known = viflog.ended(self._ledger, call.boot_id, [call.life.ifindex])
        new = NewBinding(
            name=call.name,
            boot_id=call.boot_id,
            domid=call.life.domid,
            devid=call.life.devid,
            kind=call.kind.value,
            ifindex=call.life.ifindex,
            interface=call.interface,
            mac=call.mac,
            ips=call.ips,
            bridge=call.bridge,
            own=COUNTED if call.covered else None,
        )
        binding_id = viflog.bind(self._ledger, call.at, new)
        # The call is recorded late: the interface may have gone meanwhile.
        if call.boot_id != self._boot_id or call.life.ifindex not in interfaces.present(self._sysfs):
            viflog.end(self._ledger, binding_id, call.at, "vanished")
            if call.begun and not known:
                self._orphans.broken_off(call.name, call.life, call.at)

    def _end(self, call: Call) -> None:
        domid, devid, _ = call.life
        viflog.unbind(
            self._ledger, call.at, "offline", boot_id=call.boot_id, domid=domid, devid=devid, kind=call.kind.value
        )
        if call.unannounced and call.boot_id == self._boot_id:
            self._orphans.take(call.name, domid, devid, call.kind, call.ips, call.at)
