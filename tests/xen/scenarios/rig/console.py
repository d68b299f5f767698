"""The command channel into a guest: its console, without a network. guest/init describes the protocol."""

from __future__ import annotations

import base64
import fcntl
import itertools
import os
import re
import select
import time
import tty
from dataclasses import dataclass

from rig import xenstore

# A lost command is sent again; the guest runs no command twice.
_REPEAT = 5.0
# For this time, the command that ends a guest is sent again and again. The console of a guest that crashed may stay.
_END = 40.0
_PIECE = 256

# Several threads take numbers from it at the same time.
_numbers = itertools.count()


@dataclass(frozen=True)
class Result:
    """A command's output in a guest (standard output and error together), and its exit status."""

    status: int
    output: str


class NoAnswerError(AssertionError):
    """The guest has no console, or does not answer there."""


def ask(domid: int, command: str, seconds: float) -> Result:
    """Run a shell command in a guest. NoAnswerError if no answer has come so many seconds after it was sent."""
    path = xenstore.read(f"/local/domain/{domid}/console/tty")
    if not path:
        raise NoAnswerError(f"domain {domid} has no console")
    console = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        # One command at a time; closing the file releases the lock.
        fcntl.flock(console, fcntl.LOCK_EX)
        tty.setraw(console)
        # On a busy machine, all before this took longer than some callers wait.
        return _converse(console, command, time.monotonic() + seconds)
    except OSError as error:
        # The guest is gone, and its terminal with it.
        raise NoAnswerError(f"domain {domid}: {error}") from error
    finally:
        os.close(console)


def say(domid: int, command: str) -> None:
    """Run a shell command that ends the guest, which sends no answer. Waits until its console is gone, 40 s at most."""
    try:
        ask(domid, command, _END)
    except NoAnswerError:
        return


def _converse(console: int, command: str, deadline: float) -> Result:
    token = f"{os.getpid()}x{time.monotonic_ns()}x{next(_numbers)}"
    question = f"{token} {base64.b64encode(command.encode()).decode()}\n".encode()
    # The kernel may print between answers and into an answer; a damaged answer is asked for again.
    answer = re.compile(rf"{token} (\d+) =([A-Za-z0-9+/=]*) END\r?\n".encode())
    heard = b""
    while time.monotonic() < deadline:
        _write(console, question, deadline)
        repeat_at = min(deadline, time.monotonic() + _REPEAT)
        while time.monotonic() < repeat_at:
            heard += _read(console, repeat_at - time.monotonic())
            found = answer.search(heard)
            if found:
                output = base64.b64decode(found[2]).decode(errors="replace")
                return Result(int(found[1]), output)
    raise NoAnswerError(f"no answer to {command!r}; heard {heard[-300:]!r}")


def _write(console: int, data: bytes, deadline: float) -> None:
    while data and time.monotonic() < deadline:
        if select.select([], [console], [], 0.5)[1]:
            try:
                data = data[os.write(console, data[:_PIECE]) :]
            except BlockingIOError:
                continue


def _read(console: int, seconds: float) -> bytes:
    if not select.select([console], [], [], seconds)[0]:
        return b""
    try:
        return os.read(console, 65536)
    except BlockingIOError:
        return b""
