"""The file that `xenbw export` writes: JSON, a record a line.

The first line says that the file is a ledger; the last line says how many records there were, so that a file cut short
is told from a whole one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from xenbw.errors import XenbwError

FORMAT = 1
_KIND = "ledger"
# No record is nearly as long: a longer line is not read into memory.
_LONGEST_LINE = 2**26


class ArchiveError(XenbwError):
    """The file was not written by `xenbw export`, is cut short, or has a line that cannot be understood."""


def write(stream: TextIO, facts: Mapping[str, Any], records: Iterable[str]) -> int:
    """Write a whole file of JSON texts, each without a line break in it. Returns how many there were."""
    stream.write(json.dumps({"xenbw": _KIND, "format": FORMAT, **facts}) + "\n")
    count = 0
    for record in records:
        stream.write(record + "\n")
        count += 1
    stream.write(json.dumps({"end": count}) + "\n")
    return count


def header(path: Path) -> dict[str, Any]:
    """The file's first line. Raises ArchiveError unless `write` wrote this file."""
    with _open(path) as stream:
        found = _document(next(_lines(stream, path), ""))
    if found.get("xenbw") == "book":
        raise ArchiveError(f"{path}: a copy of the book, not of a ledger", "this xenbw imports ledgers only")
    if found.get("xenbw") != _KIND:
        raise ArchiveError(f"{path}: not a file that xenbw export wrote", "its first line says what it is")
    if found.get("format") != FORMAT:
        raise ArchiveError(f"{path}: written by another xenbw (format {found.get('format')})", "upgrade xenbw")
    return found


def each(path: Path, take: Callable[[str], None]) -> None:
    """Hand every record to `take`, which raises ValueError, KeyError or TypeError for one that it cannot understand.

    Raises ArchiveError with the line's number; after the last record also for a file that is cut short.
    """
    with _open(path) as stream:
        number, held = 0, ""
        for number, line in enumerate(_lines(stream, path), 1):
            if number > 2:
                _take(path, number - 1, held, take)
            held = line
        if number < 2 or _document(held) != {"end": number - 2}:
            raise ArchiveError(f"{path}:{number}: the file ends early", "it was not copied whole; nothing was written")


def _take(path: Path, number: int, text: str, take: Callable[[str], None]) -> None:
    try:
        take(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ArchiveError(f"{path}:{number}: {why}", "nothing was written") from None


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ArchiveError(f"{path}: {error.strerror}", "name a file that xenbw export wrote") from None


def _lines(stream: BinaryIO, path: Path) -> Iterator[str]:
    number = 0
    while line := stream.readline(_LONGEST_LINE + 1):
        number += 1
        try:
            if len(line) > _LONGEST_LINE:
                raise ValueError("a line without an end")
            text = line.decode("utf-8")
        except ValueError as error:
            raise ArchiveError(f"{path}:{number}: {error}", "nothing was written") from None
        yield text


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
