"""The file by which the daemon tells systemd that messages for xenbw-notify.service are due: xenbw-notify.path watches
it."""

from __future__ import annotations

import os
from pathlib import Path

from xenbw.clock import Clock

# Seconds. The service may run this long if it has many messages or waits for a hanging program.
_PATIENCE = 300.0


def path_in(run_dir: Path) -> Path:
    """The file that the units name."""
    return run_dir / "notify"


class Bell:
    """Rings by creating the file; the service's unit removes it before the service starts."""

    def __init__(self, run_dir: Path, clock: Clock) -> None:
        self._path, self._clock = path_in(run_dir), clock
        self._rung_at: float | None = None

    def ring(self) -> str | None:
        """Create the file, if it does not exist yet. Returns why the service does not start, or None."""
        now = self._clock.tick().elapsed
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            self._rung_at = now if self._rung_at is None else self._rung_at
            if now - self._rung_at > _PATIENCE:
                return "messages wait for xenbw-notify.service (systemctl status xenbw-notify.path)"
        except OSError as error:
            return f"{self._path}: {error.strerror}: xenbw-notify.service is not started"
        else:
            self._rung_at = now
        return None
