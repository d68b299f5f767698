"""Starting a command and feeding it, for the hook: importing subprocess would cost more than most commands do."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def feed(argv: list[str], text: bytes, env: Mapping[str, str]) -> bool:
    """Run a command with this text as its input and its output dropped; whether it ended well. env: on top of ours."""
    source, sink = os.pipe()
    try:
        actions = [
            (os.POSIX_SPAWN_DUP2, source, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_CLOSE, source),
            (os.POSIX_SPAWN_CLOSE, sink),
        ]
        pid = os.posix_spawnp(argv[0], argv, {**os.environ, **env}, file_actions=actions)
    except OSError:
        os.close(sink)
        return False
    finally:
        os.close(source)
    with open(sink, "wb", buffering=0) as pipe:
        try:
            written = 0
            while written < len(text):
                written += pipe.write(text[written:]) or 0
        except BrokenPipeError:
            pass
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
