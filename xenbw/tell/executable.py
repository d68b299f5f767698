"""Running programs that nobody knows: fed from a file, held to a time limit, believed by their exit status."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from xenbw.tell.carrier import DeliveryError


def run(argv: Sequence[str], text: bytes, timeout: float) -> None:
    """Run argv (never a shell line) with text as its standard input; its output goes where ours goes: to the journal.

    After `timeout` seconds it is killed with all that it started in its process group. One that ends in time may leave
    others at work, as exim's sendmail does to deliver. Raises DeliveryError for all but exit status 0.
    """
    # A file in memory: a program that reads nothing, or slowly, holds nobody up, and needs no thread to feed it.
    with os.fdopen(os.memfd_create("message"), "w+b") as message:
        message.write(text)
        message.seek(0)
        try:
            child = subprocess.Popen(argv, stdin=message, cwd="/", start_new_session=True)
        except OSError as error:
            raise _not_started(argv[0], error) from None
    try:
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


def _not_started(program: str, error: OSError) -> DeliveryError:
    if error.errno == errno.ENOENT:
        if Path(program).exists():
            return DeliveryError(f"{program}: the interpreter that its first line names was not found")
        return DeliveryError(f"{program}: not found", "is its package installed?")
    if error.errno == errno.EACCES:
        return DeliveryError(f"{program}: may not be executed", "chmod +x makes a program of it")
    if error.errno == errno.ENOEXEC:
        return DeliveryError(f"{program}: not a program", "a script begins with a line like #!/bin/sh")
    return DeliveryError(f"{program}: {error.strerror}")
