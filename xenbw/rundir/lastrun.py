"""Whether the daemon's last run ended as it should: a file that a run begins, and removes when it ends.

systemd's watchdog ends a hung daemon by SIGABRT (WatchdogSignal= in systemd.service(5)). Python then writes into that
file where each thread was, as it does when the daemon crashes.
"""

from __future__ import annotations

import faulthandler
import os
import re
from contextlib import suppress
from pathlib import Path

_MOST = 65536
# faulthandler begins with "Fatal Python error: Aborted", and has the newest call first, as `File "…", line 7 in work`.
_ABORTED = "Fatal Python error: Aborted"
_CALL = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


def path_in(run_dir: Path) -> Path:
    return run_dir / "xenbwd.run"


def begin(run_dir: Path) -> str | None:
    """A run of the daemon begins. Returns how the last one ended, if not as it should. Without the file, on a full disk
    for example, the next run knows nothing of this one."""
    path = path_in(run_dir)
    how = None
    with suppress(OSError):
        how = _how(path.read_bytes()[:_MOST].decode("utf-8", "backslashreplace"))
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        faulthandler.enable(descriptor)  # it stays open for as long as the process lives
    return how


def end(run_dir: Path) -> None:
    """The run ends as it should."""
    with suppress(OSError):
        path_in(run_dir).unlink()


def _how(dump: str) -> str:
    if not dump:
        return "xenbwd was killed or failed, as its log says, and was started again"
    found = _CALL.search(dump)
    where = f", in {found[3]} ({Path(found[1]).name}, line {found[2]})" if found else ""
    if dump.startswith(_ABORTED):
        return f"xenbwd hung{where}, and its watchdog restarted it"
    return f"xenbwd crashed{where}, and was started again"
