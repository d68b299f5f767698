"""Run commands of other packages. Callers get `run` as an argument, so that tests can replace it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xenbw.errors import XenbwError


@dataclass(frozen=True)
class Result:
    """The result of a finished command: its exit status and its output as bytes, because names may hold any byte."""

    status: int
    stdout: bytes
    stderr: bytes


class CommandError(XenbwError):
    """The command is missing, hung past its limit, or could not be started."""


Runner = Callable[..., Result]
"""run(argv, *, input=b"", timeout=seconds) -> Result. Raises CommandError if there is no result."""


def run(argv: Sequence[str], *, input: bytes = b"", timeout: float = 10.0) -> Result:
    """Run argv (never a shell line) with the C locale; kill it after `timeout` seconds."""
    try:
        done = subprocess.run(
            list(argv),
            input=input,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise CommandError(f"{argv[0]}: command not found", "is its package installed?") from None
    except subprocess.TimeoutExpired:
        raise CommandError(
            f"{' '.join(argv)}: no answer within {timeout:g} s", "killed; is the toolstack hung?"
        ) from None
    except OSError as error:
        raise CommandError(f"{argv[0]}: {error.strerror}") from None
    return Result(done.returncode, done.stdout, done.stderr)
