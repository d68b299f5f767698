"""All null routes, by the wanted method. They stand before those of the other method are removed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from xenbw.blocks import null_text, restore
from xenbw.blocks.block import Outcome, Wanted
from xenbw.blocks.null_sets import NullSets
from xenbw.errors import XenbwError
from xenbw.nft.tables import Tables
from xenbw.rundir import turn
from xenbw.runner import CommandError, Runner, run

if TYPE_CHECKING:
    from xenbw.blocks.iptables import Iptables

UNDO = "\n".join([*restore.UNDO.values(), null_text.UNDO])
"""Shell commands that remove all null routes."""
_PATIENCE = 2.0


class NullRoutes:
    """The null routes of both families of addresses, in the legacy tables or in nft's sets."""

    name = "null routes"

    def __init__(self, tables: Tables, run: Runner = run) -> None:
        self._sets, self._run = NullSets(tables), run
        self._chains: Mapping[int, Iptables] = {}
        self._probed = False
        self._cleared = False  # whether the legacy tables have no null routes

    def probe(self) -> None:
        """None: a family that the legacy tables cannot hold is held by nft. After this call legacy tables that cannot
        be used are a problem only if there are null routes."""
        self._probed = True

    def apply(self, wanted: Wanted) -> Outcome:
        """Make the null routes the wanted ones, and remove those of the other method. Raises XenbwError if there are
        none of the wanted ones."""
        return self._by_nft(wanted) if wanted.method == null_text.METHOD else self._by_iptables(wanted)

    def _by_nft(self, wanted: Wanted) -> Outcome:
        outcome = self._sets.apply(wanted)
        if self._cleared:
            return outcome
        problems = [why for version in restore.UNDO if (why := self._clear(version)) is not None]
        self._cleared = not problems
        return replace(outcome, problems=tuple(problems))

    def _by_iptables(self, wanted: Wanted) -> Outcome:
        self._cleared = False
        changes, problems, left = list[str](), list[str](), dict(wanted.null_routes)
        for version, chain in self._legacy().items():
            try:
                changes += chain.apply(wanted).changes
                left = {address: name for address, name in left.items() if address.version != version}
            except XenbwError as error:
                if wanted.null_routes or not self._probed:
                    problems.append(str(error))
        try:
            changes += self._sets.apply(replace(wanted, null_routes=left)).changes
        except XenbwError as error:
            problems.append(str(error))
        return Outcome(tuple(changes), tuple(problems))

    def _legacy(self) -> Mapping[int, Iptables]:
        if not self._chains:
            # python-iptables takes 0.25 s to import, and a host without the legacy tables need not have it.
            try:
                from xenbw.blocks.iptables import Iptables
            except ImportError as error:
                fix = "apt install python3-iptables"
                raise XenbwError(f"null routes need python3-iptables: {error}", fix) from None
            self._chains = {version: Iptables(version) for version in restore.UNDO}
        return self._chains

    def _clear(self, version: int) -> str | None:
        """Remove the null routes from the legacy table, if it exists; why that failed, or None."""
        try:
            tables = Path(restore.TABLES[version]).read_text(encoding="ascii").split()
        except OSError:
            return None
        if "filter" not in tables:
            return None
        locks: list[int] = []
        try:
            free = turn.take(restore.XTABLES_LOCK, locks)
            saved = self._run([restore.SAVE[version], "-t", "filter"], timeout=_PATIENCE).stdout
            text = restore.removal(saved.decode(errors="replace"))
            error = restore.restore(version, text) if free and text else None
        except CommandError:
            # Without iptables there is no program that could have written the chain.
            return None
        finally:
            for lock in locks:
                os.close(lock)
        error = error if free else f"{restore.XTABLES_LOCK} is held by another program"
        return error and f"null routes remain in IPv{version}'s legacy table beside nft's: {error}"
