"""Errors for the admin: each is one line that says what happened and what to do next."""


class XenbwError(Exception):
    """A failure an admin can act on. `hint` says what to do next; the CLI prints both and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(XenbwError):
    """The request itself is wrong: a bad option, size, day or config value."""

    exit_code = 2


class MeterError(XenbwError):
    """The meter cannot be read at the moment."""
