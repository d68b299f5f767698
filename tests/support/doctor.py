"""xenbw doctor, as a test runs it and reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.support.host import REPO, Host
from tests.support.pace import busy

Told = dict[str, list[dict[str, Any]]]


def doctor(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    """`xenbw doctor words...` in dom0."""
    return host.run([sys.executable, "-m", "xenbw.cli.main", "doctor", *words], env=env(host), timeout=busy(90))


def env(host: Host) -> dict[str, str]:
    program = str(REPO / "hooks" / "vif-hook")
    return {"PYTHONPATH": str(REPO), "XENBW_CONFIG": str(host.config), "XENBW_HOOK": program}


def told(host: Host, *words: str) -> Told:
    """What doctor finds, by topic."""
    done = doctor(host, "--json", *words)
    found: Told = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["topic"], []).append(finding)
    return found


def failures(found: Told) -> list[str]:
    return [f"{topic}: {one['text']}" for topic, of in found.items() for one in of if one["level"] == "FAIL"]
