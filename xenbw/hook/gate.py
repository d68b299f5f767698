"""The hook's null routes: block a VM that starts, or free its addresses, before its vif is connected."""

from __future__ import annotations

import os
import sqlite3
import time

from xenbw.allow import Exceptions
from xenbw.blocks import restore
from xenbw.blocks.tripwire_text import quota_of
from xenbw.ledger import bindings
from xenbw.nft import nft
from xenbw.nft.pipe import hand_to_nft
from xenbw.rundir import overfile, turn
from xenbw.rundir.overfile import Over

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NFT = "nft"


def from_ledger(path: str, boot_id: str) -> Over | None:
    """What the over file would say, read from the ledger: no daemon has written an over file since boot."""
    # On a full or read-only disk a ledger in WAL mode opens only with immutable=1, which reads the file as it is.
    for how in ("mode=ro", "mode=ro&immutable=1"):
        try:
            db = sqlite3.connect(f"file:{path}?{how}", uri=True, timeout=turn.PATIENCE)
            over = Over()
            over.protected = bindings.networks(db, "protected")
            over.allow = Exceptions(bindings.networks(db, "allow"), bindings.allowed(db))
            over.held = bindings.held(db, boot_id)
            over.throttled = bindings.throttled(db)
            over.tripwires = {
                name: {quota_of(vm_id, "slow", "total"): 0} for name, (vm_id, *_) in over.throttled.items()
            }
            over.aliased = bindings.aliased(db)
            over.method = "".join(bindings.networks(db, "null_routes")[:1])
            over.blocked = {name: blockable(ips, over) for name, ips in bindings.blocked(db).items()}
            db.close()
        except sqlite3.Error:
            continue
        return over
    return None


def alias(name: str, ifindex: int, over: Over) -> str:
    """Text by which all that is sent to the vif is usage, if its VM used another MAC in an earlier life."""
    left = over.aliased.get(name, 0) - int(time.time())
    return nft.alias(ifindex, left) if left > 0 else ""


def admit(name: str, ips: list[str], run_dir: str, read: Callable[[], Over | None]) -> list[str]:
    """Null-route a VM that starts, if it is blocked. If not, free those of its addresses that are null-routed for a
    blocked VM that held them before. read(): the present over file. Returns the errors of iptables or nft."""
    over = read()
    if over is None:
        return []
    if name in over.blocked:
        allowed = blockable(ips, over)
        news = "" if set(allowed) <= set(over.blocked[name]) else overfile.blocked_line(name, allowed)
        return _write(run_dir, read, news, {name: [*over.blocked[name], *allowed]}, [])
    routed = over.addresses()
    freed = [ip for ip in ips if ip in routed]
    return _write(run_dir, read, overfile.held_line(freed), {}, freed) if freed else []


def leave(ips: list[str], run_dir: str, over: Over) -> None:
    """A VM ends: addresses that it held in good standing may be blocked again. Raises OSError."""
    free = [ip for ip in ips if ip in over.held]
    if free:
        overfile.append(f"{run_dir}/over", overfile.free_line(free))


def blockable(ips: list[str], over: Over) -> list[str]:
    """The addresses that may be blocked: not protected (dom0's, its helpers'), not held by a VM in good standing."""
    from ipaddress import ip_address, ip_network

    networks = [ip_network(word) for word in over.protected]
    return [
        ip
        for ip in dict.fromkeys(ips)
        if ip not in over.held
        and not any(ip_address(ip) in network for network in networks)
        and not (ip_address(ip).is_loopback or ip_address(ip).is_unspecified or ip_address(ip).is_multicast)
    ]


def _write(
    run_dir: str, read: Callable[[], Over | None], news: str, blocked: dict[str, list[str]], held: list[str]
) -> list[str]:
    """Add the news to the over file and write all null routes of the families concerned into the kernel: into the
    legacy tables, or into nft's sets if that is the method or the legacy tables refuse them. Returns the errors.

    Hooks that run side by side take turns, each with the over file as it is by then, or the last would undo the work of
    the others. A turn takes some 10 ms; a hook that waits too long goes on without. Without the iptables lock nothing
    is written; the hook pokes the daemon, which then writes the null routes.
    """
    locks: list[int] = []
    try:
        os.makedirs(run_dir, exist_ok=True)
        turn.take(turn.lock_of(run_dir), locks)
        if news:
            overfile.append(f"{run_dir}/over", news)
    except OSError:
        pass  # no over file, or /run is full: the kernel gets the null routes all the same
    over = read() or Over()
    for name, addresses in blocked.items():
        over.blocked.setdefault(name, []).extend(addresses)
    over.held.update(held)
    errors = []
    if over.method != _NFT and turn.take(restore.XTABLES_LOCK, locks):
        concerned = [*held, *(address for addresses in blocked.values() for address in addresses)]
        for version in sorted({restore.family(ip) for ip in concerned}):
            error = restore.write_chain(version, over.addresses(), over.allow)
            if error is not None:
                errors.append(error)
    if over.method == _NFT or errors:
        errors = _write_sets(over, errors)
    elif held:
        # An earlier hook may have used nft because iptables refused.
        _remove_sets()
    for lock in locks:
        os.close(lock)
    return errors


def _write_sets(over: Over, errors: list[str]) -> list[str]:
    """Write all null routes into nft's sets. errors: iptables', if it was tried before. Returns nft's error with them,
    none if the null routes stand."""
    from xenbw.blocks import null_text

    error = null_text.put(over.addresses(), over.allow, hand_to_nft)
    return [] if error is None else [*errors, error]


def _remove_sets() -> None:
    from xenbw.blocks import null_text

    hand_to_nft(null_text.remove())
