"""A terminal whose whole screen is drawn again and again, and which is as before afterwards, however the program ends.

Its sequences are those of xterm(1) that tmux(1), screen(1) and the Linux console know or ignore (console_codes(4)).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Self

from xenbw.cli.terminal import attended
from xenbw.errors import UsageError

# The alternate screen; no cursor; no line goes on in the next one.
_BEGIN = b"\x1b[?1049h\x1b[?25l\x1b[?7l"
# No colour; the last line, for a terminal without an alternate screen.
_END = b"\x1b[0m\x1b[999;1H\x1b[K\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _NEXT, _REST = "\x1b[H", "\x1b[K\r\n", "\x1b[K\x1b[J"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_HEARD = (*_ENDING, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
_IFLAG, _LFLAG = 0, 3  # termios(3): places in what tcgetattr returns


class EndedError(Exception):
    """A signal ends the program, or the terminal has been closed, which counts as SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def why_not() -> str | None:
    """Why standard input and output are no terminal on which a screen can be drawn, or None."""
    if not attended():
        return "standard input and output are not a terminal"
    kind = os.environ.get("TERM", "")
    return f"the terminal cannot move its cursor (TERM={kind or 'not set'})" if kind in ("", "dumb") else None


class Fullscreen:
    """The terminal at standard input and output; its screen is ours inside `with`. Raises UsageError if there is no
    terminal that can do that."""

    def __init__(self) -> None:
        if (why := why_not()) is not None:
            raise UsageError(why, "--once prints one table, --json an object a second")
        self._keys, self._screen = sys.stdin.fileno(), sys.stdout.fileno()
        self._encoding = sys.stdout.encoding
        self._writing = False
        self._pending: list[int] = []

    def __enter__(self) -> Self:
        self._cooked = termios.tcgetattr(self._keys)
        self._wake, waker = os.pipe()
        for end in (self._wake, waker):
            os.set_blocking(end, False)
        self._waker = waker
        # A signal that is ignored stays ignored, as nohup(1) wants.
        heard = [number for number in _HEARD if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._hear) for number in heard}
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._wake)
        os.close(self._waker)

    @property
    def size(self) -> tuple[int, int]:
        """Its columns and lines; 80 and 24 for a serial console, which does not know."""
        try:
            columns, lines = os.get_terminal_size(self._screen)
        except OSError:
            columns, lines = 0, 0
        return columns or 80, lines or 24

    def draw(self, lines: Sequence[str]) -> None:
        """Show these lines and nothing else, in one write. Raises EndedError."""
        self._write((_HOME + _NEXT.join(lines) + _REST).encode(self._encoding, "backslashreplace"))

    def wait(self, until: float) -> str:
        """The keys that were pressed; "" at that time of the monotonic clock, or when the screen must be drawn again.
        Raises EndedError."""
        timeout = max(0.0, until - time.monotonic())
        ready = select.select([self._keys, self._wake], [], [], timeout)[0]
        if self._wake in ready:
            with suppress(BlockingIOError):
                os.read(self._wake, 4096)
        self._obey()
        if self._keys not in ready:
            return ""
        try:
            typed = os.read(self._keys, 4096)
        except OSError:
            raise EndedError(signal.SIGHUP) from None
        if not typed:
            raise EndedError(signal.SIGHUP)
        return typed.decode("ascii", "replace")

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._pending.append(number)
        # A terminal that takes no more output would hold the program for ever.
        if self._writing and number in _ENDING:
            raise EndedError(number)

    def _obey(self) -> None:
        """Do what the signals ask that came since the last call."""
        pending, self._pending = self._pending, []
        for number in pending:
            if number in _ENDING:
                raise EndedError(number)
            if number == signal.SIGTSTP:
                self._stop()
            elif number == signal.SIGCONT:
                self._begin()

    def _stop(self) -> None:
        """Stop, as Ctrl-Z asks, and go on when the shell continues the program."""
        self._end()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._begin()

    def _begin(self) -> None:
        try:
            raw = termios.tcgetattr(self._keys)
            # Keys come at once and are not shown; Ctrl-S does not stop the output; Ctrl-C and Ctrl-Z stay signals.
            raw[_LFLAG] &= ~(termios.ICANON | termios.ECHO)
            raw[_IFLAG] &= ~termios.IXON
            termios.tcsetattr(self._keys, termios.TCSANOW, raw)
        except termios.error:
            # A terminal that is closed sends SIGCONT too (drivers/tty/tty_jobctrl.c).
            raise EndedError(signal.SIGHUP) from None
        self._write(_BEGIN)

    def _end(self) -> None:
        # The terminal may be gone, or take no more output.
        with suppress(termios.error):
            termios.tcsetattr(self._keys, termios.TCSANOW, self._cooked)
        with suppress(OSError, ValueError, EndedError):
            if select.select([], [self._screen], [], 0)[1]:
                self._write(_END)

    def _write(self, data: bytes) -> None:
        self._writing = True
        try:
            while data:
                data = data[os.write(self._screen, data) :]
        except OSError:
            raise EndedError(signal.SIGHUP) from None
        finally:
            self._writing = False
