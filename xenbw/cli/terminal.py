"""Print to the terminal and ask questions on it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator
from typing import Self, TextIO, TypeVar

from xenbw.errors import XenbwError
from xenbw.report.table import Screen
from xenbw.text import printable

_T = TypeVar("_T")
# Seconds of work without a bar, and between two drawings of it; items between two looks at the time; columns.
_SHORT, _REDRAW, _OFTEN, _BAR = 0.5, 0.1, 100, 30


def say(text: str) -> None:
    """Print text on standard output. The caller has made names and other foreign text in it printable."""
    print(text)  # noqa: T201


def warn(text: str) -> None:
    """Print one line on standard error, if it is open."""
    # Standard error that is closed is None, for which print() would take standard output, among JSON and records.
    if sys.stderr is not None:
        print(printable(text), file=sys.stderr)  # noqa: T201


def attended() -> bool:
    """Whether there is a terminal on which to ask."""
    # Standard input that is closed is None.
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def color_argument(parser: ArgumentParser) -> None:
    """Add the option --color."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="bars and colours: on a terminal (auto, the default; no colours if NO_COLOR is set), always, or bars alone"
        " (never)",
    )


def screen(color: str) -> Screen | None:
    """The terminal to draw on, or None if standard output gets plain text: no terminal, or one that is dumb. color: the
    value of --color; with "always" any output is drawn on."""
    always, terminal = color == "always", sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not always and not terminal:
        return None
    colour = always or (color == "auto" and not os.environ.get("NO_COLOR"))  # no-color.org
    return Screen(shutil.get_terminal_size().columns, colour, ascii=_only_ascii(sys.stdout))


def _only_ascii(stream: TextIO) -> bool:
    """Whether bars must be ASCII: the locale is C, or the stream's encoding has no blocks."""
    # Where the locale is C, Python writes UTF-8 all the same, and sets LC_CTYPE to one of these (PEP 538, PEP 540).
    ctype = os.environ.get("LC_CTYPE")
    own = None if ctype in ("C.UTF-8", "C.utf8", "UTF-8") else ctype
    if (os.environ.get("LC_ALL") or own or os.environ.get("LANG") or "C") in ("C", "POSIX"):
        return True
    try:
        "█░".encode(stream.encoding)
    except UnicodeEncodeError:
        return True
    return False


class Progress:
    """A bar on standard error while long work is done inside `with`; none in a pipe, on a dumb terminal or for short
    work. shown: whether there may be one."""

    def __init__(self, what: str) -> None:
        self._what, self._due, self._drawn = what, time.monotonic() + _SHORT, False
        self.shown = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            self._write("")

    def tell(self, done: float) -> None:
        """Show how much of the work is done: a share of 1."""
        if not self.shown or time.monotonic() < self._due:
            return
        # Importing rich takes a while, and most commands have no long work to do.
        from xenbw.report.screen import bar

        room = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        size = max(0, min(_BAR, room - len(self._what) - len("    100 %") - 1))
        drawn = bar(done, size, ascii_only=_only_ascii(sys.stderr))
        self._write(f"{self._what}  {drawn}  {done * 100:3.0f} %"[: room - 1])
        self._due, self._drawn = time.monotonic() + _REDRAW, True

    def over(self, items: Iterable[_T], total: int) -> Iterator[_T]:
        """The items, of which there are that many, with the share that was taken."""
        for number, item in enumerate(items):
            if number % _OFTEN == 0:
                self.tell(min(1.0, number / max(1, total)))
            yield item

    def _write(self, line: str) -> None:
        # The line is written again from its begin, and what it had beyond is cleared (console_codes(4)).
        sys.stderr.write(f"\r{line}\x1b[K")
        sys.stderr.flush()


def ask(question: str, understand: Callable[[str], _T], default: str = "") -> _T:
    """The answer to a question, parsed by `understand`. Enter alone is parsed as "" and stands for `default`, which is
    shown. After a wrong answer (XenbwError) the question is asked again.

    Raises XenbwError at the end of the input.
    """
    shown = f"{question} [{default}]: " if default else f"{question}: "
    while True:
        # input() would print the question on standard error, where it is lost if errors go to a file.
        print(printable(shown), end="", flush=True)  # noqa: T201
        answer = sys.stdin.readline()
        if not answer:
            say("")
            raise stopped()
        try:
            return understand(answer.strip())
        except XenbwError as error:
            say(printable(str(error)))


def confirm(question: str, *, default: bool) -> bool:
    """Ask a yes-or-no question; Enter means the default."""

    def understand(answer: str) -> bool:
        if not answer:
            return default
        if answer.lower() not in ("y", "yes", "n", "no"):
            raise XenbwError("answer y or n")
        return answer.lower().startswith("y")

    return ask(question, understand, "Y/n" if default else "y/N")


def stopped() -> XenbwError:
    """The error of a command that the admin stopped."""
    return XenbwError("stopped: nothing was written")
