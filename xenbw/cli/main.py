"""The entry points xenbw and xenbw-addvm, the table of commands, and the only place where errors are printed."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

from xenbw import __version__, config
from xenbw.cli.command import Command, Context
from xenbw.cli.refusal import refused
from xenbw.cli.terminal import warn
from xenbw.clock import SystemClock
from xenbw.errors import UsageError, XenbwError
from xenbw.runner import run


class _Entry(NamedTuple):
    """A command in the table: a summary, and the module of this package and the attribute that have its Command."""

    summary: str
    module: str
    attribute: str = "COMMAND"

    def load(self) -> Command:
        """Import the command's module, only when the command is chosen, so that others start fast."""
        command: Command = getattr(importlib.import_module(f"xenbw.cli.{self.module}"), self.attribute)
        return command


_ENTRIES = {
    "addvm": _Entry("give a VM its allowance, or change it", "addvm"),
    "list": _Entry("show every VM with its usage", "listing"),
    "show": _Entry("show one VM with its blocks, interfaces and history", "show"),
    "top": _Entry("show the present rates of all VMs", "top"),
    "report": _Entry("show the days, the top hours and the 95th percentile of a billing month", "report"),
    "explain": _Entry("show where a VM's usage came from", "explain"),
    "block": _Entry("block a VM until it is lifted", "block"),
    "lift": _Entry("let a blocked or throttled VM pass until its period ends", "lift"),
    "rmvm": _Entry("remove a VM and its allowance; its history stays", "rmvm"),
    "status": _Entry("show whether everything works", "status"),
    "notify": _Entry("test the channels by which xenbw tells the admin", "notify"),
    "metrics": _Entry("print metrics for Prometheus", "metrics"),
    "doctor": _Entry("check this host, and say what to fix", "doctor"),
    "fleet": _Entry("show all hosts of the book, and the usage of VMs across hosts", "fleet"),
    "resync": _Entry("push everything in the ledger to the book again", "resync"),
    "export": _Entry("write the ledger as JSON lines", "transfer", "EXPORT"),
    "import": _Entry("fill an empty ledger from an exported file", "transfer", "IMPORT"),
    "import-bwmon": _Entry("take over VMs, limits and this period's usage of the 2014 script", "bwmon"),
}


class _Parser(argparse.ArgumentParser):
    """argparse with errors as UsageError, which are printed like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """argparse would hand the words that a command does not know to the parser above it, which knows no command."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            quotes = "" if all(word.startswith("-") for word in unknown) else "quote a name or size with spaces; "
            raise UsageError(f"unrecognized arguments: {' '.join(unknown)}", f"{quotes}see {self.prog} --help")
        return options, unknown


def _program(prog: str, description: str) -> _Parser:
    program = _Parser(prog=prog, description=description, allow_abbrev=False)
    program.add_argument("--version", action="version", version=f"xenbw {__version__}")
    _config_argument(program, default=None)
    return program


def _config_argument(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--config", metavar="FILE", type=Path, default=default, help="instead of /etc/xenbw/xenbw.toml ($XENBW_CONFIG)"
    )


def parser(words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The command line of xenbw. The manual page is checked against it, and the completion is made from it.

    words: the words that were typed, if known. Only commands among them get their options then.
    """
    program = _program("xenbw", "Meter the traffic of this host's VMs and hold it to their allowances.")
    # Not required here, or argparse would complain of a missing COMMAND before it names a mistyped option.
    commands = program.add_subparsers(metavar="COMMAND")
    for name, entry in _ENTRIES.items():
        own = commands.add_parser(name, help=entry.summary, description=entry.summary, allow_abbrev=False)
        if words is None or name in words:
            _equip(own, entry.load())
    return program


def _equip(parser: argparse.ArgumentParser, command: Command) -> None:
    # --config may also follow the command; without a default there it does not undo a --config before the command.
    _config_argument(parser, default=argparse.SUPPRESS)
    command.arguments(parser)
    parser.set_defaults(run=command.run)


def addvm_parser(_words: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The command line of xenbw-addvm."""
    entry = _ENTRIES["addvm"]
    program, command = _program("xenbw-addvm", entry.summary), entry.load()
    command.arguments(program)
    program.set_defaults(run=command.run)
    return program


def _do(make_parser: Callable[[Sequence[str]], argparse.ArgumentParser], argv: Sequence[str] | None) -> int:
    """Run a command. Every failure that an admin can act on becomes one line and an exit status."""
    try:
        if sys.stdout is None:
            raise XenbwError("standard output is closed", "nothing was done")
        _accept_any_text(sys.stdin, sys.stdout, sys.stderr)
        words = sys.argv[1:] if argv is None else argv
        options = _understood(make_parser(words), words)
        settings = config.load(options.config)
        done: int = options.run(options, Context(settings, run, SystemClock()))
        sys.stdout.flush()
    except XenbwError as error:
        warn(f"xenbw: {error}")
        return error.exit_code
    except BrokenPipeError:
        # The reader of the output has gone; the interpreter, which flushes it again at exit, must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        warn(f"xenbw: {refused(error.filename or 'system error', error)}")
        return 1
    except KeyboardInterrupt:
        warn("")
        return 128 + signal.SIGINT
    return done


def _understood(program: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    options = program.parse_args(words)
    if "run" not in options:
        program.error("the following arguments are required: COMMAND")
    return options


def _accept_any_text(*streams: TextIO) -> None:
    """Let no typed byte and no printed character be an error, whatever the terminal's encoding is."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of xenbw. Returns the exit status."""
    return _do(parser, argv)


def addvm_main(argv: Sequence[str] | None = None) -> int:
    """Entry point of xenbw-addvm, which is xenbw addvm."""
    return _do(addvm_parser, argv)


if __name__ == "__main__":
    sys.exit(main())
