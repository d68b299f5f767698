"""The hook's share of blocking: whether a VM that starts may pass, put into the kernel before its vif is connected."""

from __future__ import annotations

import os
import sqlite3

from xenbw.allow import Exceptions
from xenbw.blocks import restore
from xenbw.ledger import bindings
from xenbw.rundir import overfile, turn
from xenbw.rundir.overfile import Over

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def from_ledger(path: str, boot_id: str) -> Over | None:
    """What the over file would say, from the ledger, for when no daemon has written one since boot."""
    # A ledger in WAL mode cannot be opened on a full or read-only disk, but for reading the file as it lies there.
    for how in ("mode=ro", "mode=ro&immutable=1"):
        try:
            db = sqlite3.connect(f"file:{path}?{how}", uri=True, timeout=turn.PATIENCE)
            over = Over()
            over.protected = bindings.networks(db, "protected")
            over.allow = Exceptions(bindings.networks(db, "allow"), bindings.allowed(db))
            over.held = bindings.held(db, boot_id)
            over.blocked = {name: blockable(ips, over) for name, ips in bindings.blocked(db).items()}
            db.close()
        except sqlite3.Error:
            continue
        return over
    return None


def admit(name: str, ips: list[str], run_dir: str, read: Callable[[], Over | None]) -> list[str]:
    """Null-route a VM that starts if it is blocked; else see that none of its addresses stays blocked for a former
    owner's debt. read() tells who is blocked, as often as it is asked. Returns what iptables says against it."""
    over = read()
    if over is None:
        return []
    if name in over.blocked:
        allowed = blockable(ips, over)
        news = "" if set(allowed) <= set(over.blocked[name]) else overfile.blocked_line(name, allowed)
        return _write_chain(run_dir, read, news, {name: [*over.blocked[name], *allowed]}, [])
    everyone = over.addresses()
    debts = [ip for ip in ips if ip in everyone]
    return _write_chain(run_dir, read, overfile.held_line(debts), {}, debts) if debts else []


def leave(ips: list[str], run_dir: str, over: Over) -> None:
    """A VM goes: addresses that it held in good standing protect nobody any more. Raises OSError."""
    free = [ip for ip in ips if ip in over.held]
    if free:
        overfile.append(f"{run_dir}/over", overfile.free_line(free))


def blockable(ips: list[str], over: Over) -> list[str]:
    """The addresses that may be blocked: not dom0's and its helpers', not held by a VM in good standing."""
    from ipaddress import ip_address, ip_network

    networks = [ip_network(word) for word in over.protected]
    return [
        ip
        for ip in dict.fromkeys(ips)
        if ip not in over.held
        and not any(ip_address(ip) in network for network in networks)
        and not (ip_address(ip).is_loopback or ip_address(ip).is_unspecified or ip_address(ip).is_multicast)
    ]


def _write_chain(
    run_dir: str, read: Callable[[], Over | None], news: str, blocked: dict[str, list[str]], held: list[str]
) -> list[str]:
    """Add the news to the over file and put everybody's null routes into the kernel, for the families concerned.
    Returns what iptables says against it.

    Hooks side by side do so one after the other, each with the state as it is by then, or the last would undo what the
    others wrote. A turn takes some 10 ms; who got none in time goes on without. The tables' own lock is another matter:
    without it nothing is written, and the daemon, which is poked, makes it good.
    """
    locks: list[int] = []
    try:
        os.makedirs(run_dir, exist_ok=True)
        turn.take(turn.lock_of(run_dir), locks)
        if news:
            overfile.append(f"{run_dir}/over", news)
    except OSError:
        pass  # no daemon's file, or a full /run: what this call knows is put into the kernel all the same
    over = read() or Over()
    for name, addresses in blocked.items():
        over.blocked.setdefault(name, []).extend(addresses)
    over.held.update(held)
    refused = []
    if turn.take(restore.XTABLES_LOCK, locks):
        concerned = [*held, *(address for addresses in blocked.values() for address in addresses)]
        for version in sorted({restore.family(ip) for ip in concerned}):
            said = restore.write_chain(version, over.addresses(), over.allow)
            if said is not None:
                refused.append(said)
    for lock in locks:
        os.close(lock)
    return refused
