"""Null routes in the legacy tables, by python-iptables: one REJECT per address and direction, in the chain XENBW."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_interface, ip_network
from typing import Any

from xenbw.blocks import libiptc
from xenbw.blocks.block import Outcome, Wanted
from xenbw.blocks.restore import CHAIN, HOOKED, REJECT_WITH, XTABLES_LOCK, comment, stands, write_chain
from xenbw.errors import XenbwError
from xenbw.model import Address
from xenbw.runner import Runner, run

iptc = libiptc.load()
_LOCK_PATIENCE = 1.0
_TRIES = 5
# Up to this many rules are read and changed one by one: python-iptables reads a rule in 0.1 ms and writes it in 0.2;
# for a thousand rules iptables-save takes 5 ms and iptables-restore 10.
_FEW = 100

Spec = tuple[str, str, str]
"""(side, network, comment): side is "src" or "dst"."""


class IptablesError(XenbwError):
    """The kernel's tables cannot be read or changed."""


@contextmanager
def _locked() -> Iterator[None]:
    # libiptc itself takes no lock.
    try:
        lock = os.open(XTABLES_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise IptablesError(f"{XTABLES_LOCK}: {error.strerror}", "systemd-tmpfiles --create makes it") from None
    try:
        limit = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > limit:
                    raise IptablesError(
                        f"{XTABLES_LOCK}: held by another program", "xenbw tries again shortly"
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(lock)


def _specs(null_routes: Mapping[Address, str], version: int) -> list[Spec]:
    return [
        (side, str(ip_network(address)), comment(name))
        for address, name in sorted(null_routes.items(), key=lambda item: (item[0].version, item[0]))
        if address.version == version
        for side in ("src", "dst")
    ]


def _routes(wanted: Wanted) -> dict[str, str]:
    return {str(address): name for address, name in wanted.null_routes.items()}


class Iptables:
    """The null routes of one family of addresses. version is 4 or 6."""

    def __init__(self, version: int, run: Runner = run) -> None:
        self._version, self._run = version, run
        self._rule = iptc.Rule if version == 4 else iptc.Rule6
        self.name = "iptables" if version == 4 else "ip6tables"
        self._many = False  # whether the chain is written as a whole

    def probe(self) -> str | None:
        """Why the kernel has no such tables, or None."""
        try:
            self._table().refresh()
        except (iptc.IPTCError, iptc.XTablesError) as error:
            return f"{self.name}: {error}"
        return None

    def apply(self, wanted: Wanted) -> Outcome:
        """Make the chain and its jumps exactly the wanted ones, in one commit. Raises IptablesError.

        Only a change takes the lock: programs that do not wait for it, as ufw, would fail while we look.
        The kernel refuses our commit (EAGAIN) if another program commits after we read the table: then start again.
        """
        specs = _specs(wanted.null_routes, self._version)
        many, self._many = self._many, len(specs) > _FEW or bool(specs and wanted.allow)
        whole = self._many or bool(many and specs)
        for attempt in range(_TRIES):
            try:
                if self._stands(wanted) if whole else not self._changes(specs)[1]:
                    return Outcome()
                with _locked():
                    return Outcome(tuple(self._write_whole(wanted) if whole else self._repair(specs)))
            except (iptc.IPTCError, iptc.XTablesError) as error:
                failure = error
            time.sleep(0.02 * attempt)
        raise IptablesError(f"{self.name}: {failure}", "is the legacy table's module loaded? see xenbw status")

    def _table(self) -> Any:
        table = iptc.Table(iptc.Table.FILTER) if self._version == 4 else iptc.Table6(iptc.Table6.FILTER)
        table.autocommit = False
        return table

    def _stands(self, wanted: Wanted) -> bool:
        """Whether the whole chain is right."""
        saved = self._run([f"{self.name}-legacy-save", "-t", "filter"], timeout=_LOCK_PATIENCE)
        rules = saved.stdout.decode(errors="replace")
        return saved.status == 0 and stands(self._version, _routes(wanted), wanted.allow, rules)

    def _write_whole(self, wanted: Wanted) -> list[str]:
        """Write the whole chain: for many rules, and where their order matters."""
        error = write_chain(self._version, _routes(wanted), wanted.allow)
        if error is not None:
            raise IptablesError(f"{self.name}-legacy-restore fails: {error}", f"see {self.name}-legacy-save -t filter")
        return [f"{self.name}: the whole chain {CHAIN} written"]

    def _repair(self, wanted: list[Spec]) -> list[str]:
        table, changes = self._changes(wanted)
        if changes:
            table.commit()
        return [f"{self.name}: {change}" for change in changes]

    def _changes(self, wanted: list[Spec]) -> tuple[Any, list[str]]:
        """The table as read and changed, not committed yet, and what was changed."""
        table = self._table()
        table.refresh()
        changes: list[str] = []
        if wanted and not table.is_chain(CHAIN):
            table.create_chain(CHAIN)
            changes.append(f"chain {CHAIN} made")
        if wanted:
            changes += self._repair_rules(iptc.Chain(table, CHAIN), wanted)
        for hooked in HOOKED:
            changes += self._repair_jump(iptc.Chain(table, hooked), first=bool(wanted))
        if not wanted and table.is_chain(CHAIN):
            table.flush_entries(CHAIN)
            table.delete_chain(CHAIN)
            changes.append(f"chain {CHAIN} removed")
        return table, changes

    def _repair_rules(self, chain: Any, wanted: list[Spec]) -> list[str]:
        missing = dict.fromkeys(wanted)
        surplus = []
        for rule in chain.rules:
            spec = self._read(rule)
            if spec in missing:
                del missing[spec]
            else:
                surplus.append(rule)
        # From the last to the first: a rule is deleted by content, and that must not move a rule yet to be deleted.
        for rule in reversed(surplus):
            chain.delete_rule(rule)
        for spec in missing:
            chain.append_rule(self._make(spec))
        changes = [f"{side} {network.partition('/')[0]} blocked" for side, network, _ in missing if side == "src"]
        return changes + ([f"{len(surplus)} rules removed"] if surplus else [])

    def _repair_jump(self, chain: Any, *, first: bool) -> list[str]:
        rules = chain.rules
        jumps = [at for at, rule in enumerate(rules) if rule.target is not None and rule.target.name == CHAIN]
        if not first:
            changed = bool(jumps)
        else:
            jump = self._rule()
            jump.create_target(CHAIN)
            changed = jumps != [0] or rules[0] != jump
        if not changed:
            return []
        for at in reversed(jumps):
            chain.delete_rule(rules[at])
        if first:
            chain.insert_rule(jump)
        return [f"jump in {chain.name} {'put first' if first else 'removed'}"]

    def _make(self, spec: Spec) -> Any:
        side, network, text = spec
        rule = self._rule()
        setattr(rule, side, network)
        rule.create_match("comment").comment = text
        rule.create_target("REJECT").reject_with = REJECT_WITH[self._version]
        return rule

    def _read(self, rule: Any) -> Spec | None:
        """The rule as a Spec, or None if we would not write such a rule."""
        try:
            ends = {side: ip_interface(getattr(rule, side)).network for side in ("src", "dst")}
        except ValueError:  # a negated address, which we never write
            return None
        named = [side for side, network in ends.items() if network.prefixlen]
        matches, target = rule.matches, rule.target
        if (
            len(named) != 1
            or rule.in_interface
            or rule.out_interface
            or len(matches) != 1
            or matches[0].name != "comment"
            or target is None
            or target.name != "REJECT"
            or target.reject_with != REJECT_WITH[self._version]
        ):
            return None
        side = named[0]
        return side, str(ends[side]), matches[0].comment
