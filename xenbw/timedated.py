"""systemd-timedated: asked whether the host's clock is synchronised, by whatever time service it has."""

from __future__ import annotations

import threading

from xenbw.runner import CommandError, Runner

# It answers from the kernel's own state (adjtimex, maxerror below 16 s: ntp_synced() in systemd's time-util.c), so for
# chrony, ntpd and timesyncd alike. Who asks needs no adjtimex, which ProtectClock= takes away.
_QUESTION = ("timedatectl", "show", "--property=NTPSynchronized", "--value")

# D-Bus gives up after 25 s by itself.
_LIMIT = 30.0
_PAUSE = 10.0


def synchronised(run: Runner, timeout: float = _LIMIT) -> bool:
    """Whether the clock is synchronised; False where nobody answers: no timedated, no D-Bus, or neither in `timeout`
    seconds."""
    try:
        answer = run(_QUESTION, timeout=timeout)
    except CommandError:
        return False
    return answer.status == 0 and answer.stdout.strip() == b"yes"


class Timedated:
    """A witness (see xenbw.clock) that lets nobody wait: it asks in a thread, one question at a time, ten seconds from
    one to the next, and has the answer at some later tick."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self._asked_at = float("-inf")
        self._vouched = False
        self._asking: threading.Thread | None = None

    def vouches(self, since: float, now: float) -> bool:
        """Whether a question that was put at `since` or later was answered with yes; asks another where it is time."""
        if self._asking is not None and self._asking.is_alive():
            return False
        if self._vouched and self._asked_at >= since:
            return True
        if now - self._asked_at >= _PAUSE:
            self._asked_at, self._vouched = now, False
            self._asking = threading.Thread(target=self._ask, name="timedated", daemon=True)
            self._asking.start()
        return False

    def _ask(self) -> None:
        self._vouched = synchronised(self._run)
