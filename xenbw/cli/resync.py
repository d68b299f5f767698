"""xenbw resync: push the whole ledger to the book again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from xenbw.book.sync import marks_path
from xenbw.cli.command import Command, Context
from xenbw.cli.fleet import require_book
from xenbw.cli.terminal import say
from xenbw.errors import XenbwError


def arguments(parser: ArgumentParser) -> None:
    """resync takes none."""


def run(options: Namespace, context: Context) -> int:
    require_book(context.settings)
    try:
        marks_path(context.settings).unlink(missing_ok=True)
    except OSError as error:
        raise XenbwError(f"{marks_path(context.settings)}: {error.strerror}", "run it as root") from None
    say("everything that is still in the ledger is pushed to the book again; xenbw status shows how far it is")
    return 0


COMMAND = Command(arguments, run)
