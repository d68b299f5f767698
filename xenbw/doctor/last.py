"""The last result of doctor, which `xenbw status` shows."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from xenbw.doctor.finding import Finding, Level, worst
from xenbw.units import format_time

Document = dict[str, Any]


@dataclass(frozen=True)
class Last:
    """When doctor last ran to its end, and how many findings of each level it had."""

    at: datetime
    counts: Counter[Level]


def path(run_dir: Path) -> Path:
    return run_dir / "doctor.json"


def document(findings: Sequence[Finding], at: datetime) -> Document:
    """{"generated_at", "worst", "findings": [{"level", "topic", "text", "fix"}]}; a missing fix is null."""
    return {
        "generated_at": format_time(at),
        "worst": worst(findings).value,
        "findings": [{**asdict(finding), "fix": finding.fix or None} for finding in findings],
    }


def keep(run_dir: Path, result: Document) -> None:
    """Replace the last result atomically. Raises OSError."""
    run_dir.mkdir(parents=True, exist_ok=True)
    fresh = run_dir / f"doctor.json.{os.getpid()}"
    # Only root may read it, because it names VMs.
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        json.dump(result, file, indent=2)
    fresh.replace(path(run_dir))


def read(run_dir: Path) -> Last | None:
    """The last result, or None if there is none or it cannot be read."""
    try:
        result = json.loads(path(run_dir).read_text(encoding="ascii"))
        at = datetime.fromisoformat(result["generated_at"])
        return Last(at, Counter(Level(finding["level"]) for finding in result["findings"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
