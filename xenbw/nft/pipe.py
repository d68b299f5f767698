"""Starting a command and feeding it, for the hook: importing subprocess would cost more than most commands do."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 240
# Two lines tell what is wrong and with which rule. What follows of nft(8)'s is a row of carets, of iptables' advice.
_LINES = 2


def feed(argv: list[str], text: bytes, env: Mapping[str, str]) -> str | None:
    """Run a command with this text as its input and its output dropped. None if it ended well, else what it said
    against it, in a line. env: on top of ours."""
    source, sink = os.pipe()
    # A file, and no pipe: a command that has much to say does not wait for us to read it while we wait for it to read.
    said = os.memfd_create("said")
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, source, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, said, 2),
            (os.POSIX_SPAWN_CLOSE, source),
            (os.POSIX_SPAWN_CLOSE, sink),
        ]
        pid = os.posix_spawnp(argv[0], argv, {**os.environ, **env}, file_actions=actions)
    except OSError as error:
        os.close(sink)
        os.close(said)
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
    words = os.pread(said, 4096, 0)
    os.close(said)
    return None if status == 0 else in_a_line(words) or f"{argv[0]}: exit status {status}"


def in_a_line(words: bytes) -> str:
    """What a program said, fit for a line of the log: its first words, printable. They may quote a guest's names."""
    lines = [" ".join(line.split()) for line in words.decode("ascii", errors="replace").splitlines()]
    # nft(8) begins with the place in its input, /dev/stdin:3:1-20, which nobody can look up.
    told = [line.partition("Error: ")[2] or line for line in lines if line.strip("^~ ")]
    plain = "".join(c if " " <= c <= "~" else "?" for c in " / ".join(told[:_LINES]))
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 3]}..."
