"""Run a command, mostly nft(8), with a text as its input, for the hook: importing subprocess takes longer than most
commands run."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 240
# Two lines name the error and the rule. After them nft(8) prints a row of carets, iptables advice.
_LINES = 2


def feed(argv: list[str], text: bytes, env: Mapping[str, str]) -> str | None:
    """Run a command with this text as its input and its output dropped. None if its exit status is 0, else its error in
    one line. env: added to our environment."""
    source, sink = os.pipe()
    # A file, not a pipe: a command with a long error must not wait for us to read it while we wait for it to read.
    errors = os.memfd_create("errors")
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, source, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, errors, 2),
            (os.POSIX_SPAWN_CLOSE, source),
            (os.POSIX_SPAWN_CLOSE, sink),
        ]
        pid = os.posix_spawnp(argv[0], argv, {**os.environ, **env}, file_actions=actions)
    except OSError as error:
        os.close(sink)
        os.close(errors)
        return f"{argv[0]}: {error.strerror}"
    finally:
        os.close(source)
    with open(sink, "wb", buffering=0) as pipe:
        try:
            written = 0
            while written < len(text):
                written += pipe.write(text[written:]) or 0
        except BrokenPipeError:
            pass
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    printed = os.pread(errors, 4096, 0)
    os.close(errors)
    return None if status == 0 else in_a_line(printed) or f"{argv[0]}: exit status {status}"


def hand_to_nft(text: str) -> str | None:
    """Hand nft(8) a batch, which is carried out as a whole or not at all. None if it was, else nft's error. The daemon
    uses the library instead."""
    return feed(["nft", "-f", "-"], text.encode("ascii"), {})


def in_a_line(error: bytes) -> str:
    """A program's error as one line for the log: shortened and printable, since it may quote a guest's names."""
    lines = [" ".join(line.split()) for line in error.decode("ascii", errors="replace").splitlines()]
    # nft(8) begins with the place in its input, /dev/stdin:3:1-20, which nobody can look up.
    kept = [line.partition("Error: ")[2] or line for line in lines if line.strip("^~ ")]
    plain = "".join(c if " " <= c <= "~" else "?" for c in " / ".join(kept[:_LINES]))
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 3]}..."
