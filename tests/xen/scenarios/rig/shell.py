"""Commands in dom0."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

_LIMIT = 2000


def run(*argv: str, check: bool = True) -> str:
    """Standard output of a command. AssertionError with all its output if it fails, unless `check` is false."""
    # While xenbwd holds iptables' lock, for some milliseconds now and then, the legacy tools fail at once without -w.
    given = (argv[0], "-w", *argv[1:]) if argv[0] in ("iptables-legacy", "ip6tables-legacy") else argv
    done = subprocess.run(given, capture_output=True, text=True, timeout=_LIMIT, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def status(*argv: str) -> int:
    """Exit status of a command that may fail."""
    return subprocess.run(argv, capture_output=True, timeout=_LIMIT, check=False).returncode


def together(*commands: Sequence[str]) -> None:
    """Run commands at the same time; AssertionError if one fails."""
    running = [(argv, subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)) for argv in commands]
    results = [(argv, process.communicate(timeout=_LIMIT)[0], process.returncode) for argv, process in running]
    for argv, output, code in results:
        assert code == 0, f"{' '.join(argv)}: status {code}\n{output.decode(errors='replace')}"
