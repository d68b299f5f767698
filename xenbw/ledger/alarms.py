"""Alarms that were told and are not over, so that a restart tells none of them again. Each kind is one value of
meta."""

from __future__ import annotations

import json
from typing import Any

from xenbw.ledger.ledger import Ledger

FLOODS, TROUBLES = "floods", "troubles"


def told(ledger: Ledger, kind: str) -> dict[str, dict[str, Any]]:
    """The open alarms of a kind, by key; none if the value is damaged: then they are told once more."""
    try:
        found = json.loads(ledger.meta(kind) or "{}")
    except (TypeError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: facts for key, facts in found.items() if isinstance(facts, dict)}


def keep(ledger: Ledger, kind: str, alarms: dict[str, dict[str, Any]]) -> None:
    """These are the open alarms of a kind now. Raises LedgerError."""
    ledger.set_meta(kind, json.dumps(alarms))
