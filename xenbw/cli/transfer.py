"""xenbw export and xenbw import: the ledger as a file of JSON lines, and back."""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

from xenbw.cli.accounts import freshen
from xenbw.cli.command import Command, Context
from xenbw.cli.refusal import refused
from xenbw.cli.terminal import Progress, say, warn
from xenbw.errors import XenbwError
from xenbw.rundir import control
from xenbw.rundir.control import NoDaemonError
from xenbw.text import printable
from xenbw.transfer import archive, transfer
from xenbw.units import format_time

# Linux follows as many symbolic links (path_resolution(7)).
_MOST_LINKS = 40


def refuse_beside_daemon(context: Context, why: str) -> None:
    """Raise XenbwError while xenbwd runs, or may run."""
    try:
        control.ask(context.settings.daemon.run_dir, "status")
    except NoDaemonError:
        return
    raise XenbwError(f"xenbwd is running: {why}", "systemctl stop xenbwd, and start it again afterwards")


def _export_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="write to it instead of standard output")


def _export(options: Namespace, context: Context) -> int:
    if stale := freshen(context):
        warn(f"note: {stale}")
    with (
        context.ledger() as ledger,
        # A reader that has enough, or a full disk, ends the export between two records.
        closing(transfer.records(ledger)) as records,
        Progress("writing the ledger") as progress,
    ):
        # On the terminal that gets the records, a bar would be among them.
        shown = progress.shown and (options.file is not None or not sys.stdout.isatty())
        told = progress.over(records, transfer.count(ledger)) if shown else records
        return _write(options.file, transfer.facts(), told, context)


def _write(path: Path | None, facts: Mapping[str, Any], records: Iterable[str], context: Context) -> int:
    about = {"host": context.settings.host_name, "at": format_time(context.clock.tick().wall), **facts}
    if path is None:
        archive.write(sys.stdout, about, records)
        return 0
    try:
        with _replacing(path) as stream:
            count = archive.write(stream, about, records)
    except OSError as error:
        # The error itself would name the file that was to take the path's place, or none.
        raise refused(path, error) from None
    say(printable(f"{path}: the ledger, {count:,} records"))
    return 0


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file that takes the path's place once it is whole. It has the ledger's permissions: it names customers and
    their traffic."""
    target = _followed(path)
    if target.exists() and not target.is_file():
        raise XenbwError(f"{path}: not a file", "without a FILE it goes to standard output")
    # An unguessable name: in a folder like /tmp others could have made a file of a known name before.
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    fresh = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            os.fchmod(descriptor, 0o640)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _followed(path: Path) -> Path:
    """The path with the admin's own symbolic links followed. Raises XenbwError for a link of another user, who could
    choose where root writes.

    The kernel's fs.protected_symlinks does not help here, since rename(2) replaces a link without following it.
    """
    for _ in range(_MOST_LINKS):
        if not path.is_symlink():
            return path
        if path.lstat().st_uid != os.geteuid():
            raise XenbwError(f"{path}: a symbolic link of another user's", "name the file itself")
        path = path.parent / path.readlink()
    raise XenbwError(f"{path}: a symbolic link that leads nowhere", "name the file itself")


def _import_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="what xenbw export wrote")


def _import(options: Namespace, context: Context) -> int:
    path: Path = options.file
    refuse_beside_daemon(context, "nothing was imported")
    header = archive.header(path)
    with (
        context.ledger(create=True) as ledger,
        transfer.filling(ledger, header.get("schema")) as filling,
        Progress("reading the file") as progress,
    ):
        archive.each(path, _with_bar(filling.take, path, progress))
    told = ", ".join(f"{count:,} {name}" for name, count in filling.counts.items()) or "nothing"
    say(printable(f"{context.settings.ledger.path}: {told}, of {header.get('host')}"))
    return 0


def _with_bar(take: Callable[[str], None], path: Path, progress: Progress) -> Callable[[str], None]:
    """`take`, which tells how much of the file it has had. Records are ASCII: a letter is a byte."""
    size, had = max(1, path.stat().st_size), 0

    def told(text: str) -> None:
        nonlocal had
        had += len(text)
        progress.tell(min(1.0, had / size))
        take(text)

    return told


EXPORT = Command(_export_arguments, _export)
IMPORT = Command(_import_arguments, _import)
