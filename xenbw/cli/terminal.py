"""Talking with the person at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from xenbw.errors import XenbwError
from xenbw.text import printable

_T = TypeVar("_T")


def say(text: str) -> None:
    """Text on standard output; what comes from outside in it is already printable."""
    print(text)  # noqa: T201


def warn(text: str) -> None:
    """One line on standard error."""
    print(printable(text), file=sys.stderr)  # noqa: T201


def attended() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def ask(question: str, understand: Callable[[str], _T], default: str = "") -> _T:
    """What `understand` makes of the answer, "" where it was only Enter: then `default`, as shown, is meant. A wrong
    answer (XenbwError) is asked again.

    Raises XenbwError at the end of the input.
    """
    shown = f"{question} [{default}]: " if default else f"{question}: "
    while True:
        # Not input(): that puts its question on standard error, where it is lost when errors go to a file.
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
    """A yes or a no; Enter is the default."""

    def understand(answer: str) -> bool:
        if not answer:
            return default
        if answer.lower() not in ("y", "yes", "n", "no"):
            raise XenbwError("answer y or n")
        return answer.lower().startswith("y")

    return ask(question, understand, "Y/n" if default else "y/N")


def stopped() -> XenbwError:
    """What a command ends with that was told not to go on."""
    return XenbwError("stopped: nothing was written")
