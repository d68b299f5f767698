"""The entry points xenbw and xenbw-addvm, the table of commands, and the one place where errors are printed."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TextIO

from xenbw import __version__, config
from xenbw.cli import addvm, block, bwmon, doctor, explain, fleet, lift, listing, resync, rmvm, show, status, transfer
from xenbw.cli.command import Command, Context
from xenbw.cli.terminal import warn
from xenbw.clock import SystemClock
from xenbw.errors import UsageError, XenbwError
from xenbw.runner import run

COMMANDS: tuple[Command, ...] = (
    addvm.COMMAND,
    listing.COMMAND,
    show.COMMAND,
    explain.COMMAND,
    block.COMMAND,
    lift.COMMAND,
    rmvm.COMMAND,
    status.COMMAND,
    doctor.COMMAND,
    fleet.COMMAND,
    resync.COMMAND,
    transfer.EXPORT,
    transfer.IMPORT,
    bwmon.COMMAND,
)


class _Parser(argparse.ArgumentParser):
    """argparse, with its errors on one line and by the same way out as all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see {self.prog} --help")


def _program(prog: str, description: str) -> _Parser:
    program = _Parser(prog=prog, description=description, allow_abbrev=False)
    program.add_argument("--version", action="version", version=f"xenbw {__version__}")
    _config_argument(program, default=None)
    return program


def _config_argument(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--config", metavar="FILE", type=Path, default=default, help="instead of /etc/xenbw/xenbw.toml ($XENBW_CONFIG)"
    )


def parser() -> argparse.ArgumentParser:
    """The command line of xenbw; its manual page and its completion are checked against it."""
    program = _program("xenbw", "Meter the traffic of this host's VMs and hold it to their allowances.")
    commands = program.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        own = commands.add_parser(command.name, help=command.summary, description=command.summary, allow_abbrev=False)
        # Also after the command, where it must not undo what stood before it.
        _config_argument(own, default=argparse.SUPPRESS)
        command.arguments(own)
        own.set_defaults(run=command.run)
    return program


def addvm_parser() -> argparse.ArgumentParser:
    """The command line of xenbw-addvm."""
    program = _program("xenbw-addvm", addvm.COMMAND.summary)
    addvm.COMMAND.arguments(program)
    program.set_defaults(run=addvm.COMMAND.run)
    return program


def _do(make_parser: Callable[[], argparse.ArgumentParser], argv: Sequence[str] | None) -> int:
    """Run a command; every failure an admin can act on becomes one line and an exit status."""
    _accept_any_text(sys.stdin, sys.stdout, sys.stderr)
    try:
        options = make_parser().parse_args(argv)
        settings = config.load(options.config)
        done: int = options.run(options, Context(settings, run, SystemClock()))
        sys.stdout.flush()
    except XenbwError as error:
        warn(f"xenbw: {error}")
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter's own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        warn(f"xenbw: {error.filename or 'system error'}: {error.strerror} (are you root?)")
        return 1
    except KeyboardInterrupt:
        warn("")
        return 128 + signal.SIGINT
    return done


def _accept_any_text(*streams: TextIO) -> None:
    """Let no byte typed and no letter printed be an error, whatever the terminal's encoding is."""
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
