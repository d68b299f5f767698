"""Run an unknown program: its input comes from a file, its time is limited, its exit status says whether it worked."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from xenbw.tell.carrier import DeliveryError

_ENDING = (signal.SIGTERM, signal.SIGINT)


def run(argv: Sequence[str], text: bytes, timeout: float) -> None:
    """Run argv (never a shell line) with text as its standard input; its output goes to the journal, like this one's.

    After `timeout` seconds it is killed with its whole process group. A program that ends in time may leave processes
    running, as exim's sendmail does to deliver. Raises DeliveryError for any exit status but 0.
    """
    # A file in memory needs no thread to write it, and a program that reads slowly, or not at all, blocks nothing.
    with os.fdopen(os.memfd_create("message"), "w+b") as message:
        message.write(text)
        message.seek(0)
        # A signal that ends this process must not come after the program started and before its process id is known.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        try:
            child = _start(argv, message, before)
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise _not_started(argv[0], error) from None
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        status = child.wait(timeout)
    except subprocess.TimeoutExpired:
        raise DeliveryError(f"{argv[0]} was killed: it had not ended after {timeout:g} s") from None
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if status < 0:
        raise DeliveryError(f"{argv[0]} was ended by signal {-status}")
    if status > 0:
        raise DeliveryError(f"{argv[0]} ended with status {status}", "journalctl -u xenbw-notify has what it said")


def _start(argv: Sequence[str], source: IO[bytes], signals: Iterable[int]) -> subprocess.Popen[bytes]:
    """signals: those that are blocked for the program. Raises OSError."""
    return subprocess.Popen(
        argv,
        stdin=source,
        cwd="/",
        start_new_session=True,
        # This process has no other thread, which such a call could find in the midst of something.
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, signals),  # noqa: PLW1509
    )


def _not_started(program: str, error: OSError) -> DeliveryError:
    if error.errno == errno.ENOENT:
        if Path(program).exists():
            return DeliveryError(f"{program}: the interpreter that its first line names was not found")
        return DeliveryError(f"{program}: not found", "is its package installed?")
    if error.errno == errno.EACCES:
        return DeliveryError(f"{program}: not executable", "run chmod +x on it")
    if error.errno == errno.ENOEXEC:
        return DeliveryError(f"{program}: not a program", "a script begins with a line like #!/bin/sh")
    return DeliveryError(f"{program}: {error.strerror}")
