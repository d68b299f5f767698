"""Null routes in nft's sets: kept as they should be, and removed with their tables when there are none."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

from xenbw.allow import Exceptions
from xenbw.blocks import null_text
from xenbw.blocks.block import Outcome, Wanted
from xenbw.errors import MeterError, XenbwError
from xenbw.nft.netlink import Table
from xenbw.nft.objects import Chain
from xenbw.nft.tables import Tables

_LENGTHS = (4, 16)  # of an address, in bytes


class NullSetsError(XenbwError):
    """nft refuses the null routes, or tells nothing of them."""


class _View(NamedTuple):
    """The null routes in the kernel without their addresses. chains, exceptions: by family and name, the chains and the
    keys of the sets with exceptions."""

    chains: Mapping[tuple[str, str], Chain]
    exceptions: Mapping[tuple[str, str], frozenset[bytes]]


class NullSets:
    """The null routes of both families of addresses, in the tables `xenbw-null`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._families = {kind: tables.of(number, null_text.TABLE) for kind, number in null_text.FAMILIES.items()}
        self._verdict: str | None = None  # how the bridge's table refuses, once nft has accepted it
        self._laid: _View | None = None  # as it was after we wrote it all
        self._allow = Exceptions()  # for which they were written
        self._done: object = None  # the rules' generation and what was wanted, when all was so

    def apply(self, wanted: Wanted) -> Outcome:
        """Make the null routes exactly the wanted ones, in one commit. Raises NullSetsError."""
        routes = {str(address): name for address, name in wanted.null_routes.items()}
        names = set(routes.values())
        own = {name: networks for name, networks in wanted.allow.own.items() if name in names}
        allow = Exceptions(wanted.allow.common if routes else (), own)
        try:
            changes = self._make(routes, allow)
        except MeterError as error:
            # A kernel whose nft rules cannot be read has no null routes there, so none has to be removed.
            if routes:
                raise NullSetsError(f"nft: {error.message}", error.hint) from None
            return Outcome()
        return Outcome(tuple(f"nft: {change}" for change in changes), bridged=self._verdict != "")

    def _make(self, routes: Mapping[str, str], allow: Exceptions) -> list[str]:
        if self._done == (self._tables.generation(), routes, allow):
            return []
        view = self._look(routes, allow)
        if not routes:
            changes = self._remove(view)
        elif self._allow != allow or view != self._laid:
            changes = self._write(routes, allow, over=view)
        else:
            changes = self._repair(routes, allow)
        self._done = (self._tables.generation(), routes, allow)
        return changes

    def _remove(self, view: _View) -> list[str]:
        self._laid = None
        if not view.chains:
            return []
        error = self._tables.apply(null_text.remove())
        if error is not None:
            raise NullSetsError(f"nft does not remove null routes: {error}", f"nft delete table inet {null_text.TABLE}")
        return ["all null routes removed"]

    def _write(self, routes: Mapping[str, str], allow: Exceptions, *, over: _View) -> list[str]:
        """Write everything, over what is there."""
        there = over.chains or any(map(_addresses, self._families.values()))
        text = null_text.write if there else null_text.lay
        if self._verdict is None or self._tables.apply(text(routes, allow, self._verdict)) is not None:
            self._find_verdict(routes, allow)
        self._allow, self._laid = allow, self._look(routes, allow)
        return [f"all {len(routes)} null routes written"]

    def _find_verdict(self, routes: Mapping[str, str], allow: Exceptions) -> None:
        errors = []
        for self._verdict in null_text.VERDICTS:
            error = self._tables.apply(null_text.write(routes, allow, self._verdict))
            if error is None:
                return
            errors.append(error)
        self._verdict = None
        raise NullSetsError(f"nft refuses null routes: {errors[-1]}", "is the kernel built with nf_tables?")

    def _repair(self, routes: Mapping[str, str], allow: Exceptions) -> list[str]:
        """Add missing addresses and delete others; the chains are right."""
        held = {kind: _addresses(table) for kind, table in self._families.items()}
        wanted = {address: null_text.note(name) for address, name in routes.items()}
        kinds = [kind for kind in null_text.FAMILIES if kind == "inet" or self._verdict]
        surplus = {
            kind: [address for address, said in held[kind].items() if wanted.get(address) != said] for kind in kinds
        }
        missing = {
            kind: {address: name for address, name in routes.items() if held[kind].get(address) != wanted[address]}
            for kind in kinds
        }
        text = "".join(null_text.drop(kind, surplus[kind]) + null_text.add(kind, missing[kind]) for kind in kinds)
        if text and self._tables.apply(text) is not None:
            return self._write(routes, allow, over=self._look(routes, allow))
        added = dict.fromkeys(address for kind in kinds for address in missing[kind])
        removed = {address for kind in kinds for address in surplus[kind]} - added.keys()
        changes = [f"{address} blocked" for address in added]
        return changes + ([f"{len(removed)} null routes removed"] if removed else [])

    def _look(self, routes: Mapping[str, str], allow: Exceptions) -> _View:
        names = null_text.exception_sets(routes, allow)
        return _View(
            {(kind, name): chain for kind, table in self._families.items() for name, chain in table.chains().items()},
            {(kind, name): table.elements(name) for kind, table in self._families.items() for name in names},
        )


def _addresses(table: Table) -> dict[str, str]:
    """The null-routed addresses in a table, each with its comment."""
    found = [item for name in null_text.SETS.values() for item in table.comments(name).items()]
    # A set of another program may have keys of any length.
    return {str(ip_address(key)) if len(key) in _LENGTHS else key.hex(): said for key, said in found}
