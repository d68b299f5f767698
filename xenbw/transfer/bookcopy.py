"""The whole book as records, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import bson
from bson.errors import BSONError
from bson.int64 import Int64
from pymongo.errors import PyMongoError

from xenbw.book.book import Book, BookError
from xenbw.book.documents import Document
from xenbw.config import Settings
from xenbw.transfer import extended

COLLECTIONS = ("vms", "hosts", "bindings", "digests", "usage", "events", "samples")

_AT_ONCE = 1000
_LARGEST = 2**63


class BookCopy(Book):
    """The book, for copying it out or in. counts: documents written, by collection."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.counts: Counter[str] = Counter()
        self._waiting: dict[str, list[Document]] = {}

    def records(self) -> Iterator[str]:
        """Every document as {"collection": …, "document": …}, each collection in the order of _id. Raises BookError."""
        for name in COLLECTIONS:
            try:
                for document in self._database.get_collection(name).find(batch_size=_AT_ONCE).sort("_id"):
                    yield extended.dumps({"collection": name, "document": document})
            except PyMongoError as error:
                raise self._failed(error) from None
            except (BSONError, OverflowError) as error:
                raise BookError(f"the book: {name}: {error}", "correct or remove that document") from None

    def take(self, text: str) -> None:
        """Put one record's document in place of the one with its _id, with some others at a time; `flush` writes the
        rest. Raises ValueError, KeyError or TypeError as `check` does, BookError."""
        name, document = _understand(text)
        waiting = self._waiting.setdefault(name, [])
        waiting.append(document)
        if len(waiting) >= _AT_ONCE:
            self._write(name, waiting)

    def flush(self) -> None:
        """Write what waits. Raises BookError."""
        for name, waiting in self._waiting.items():
            self._write(name, waiting)

    def _write(self, name: str, waiting: list[Document]) -> None:
        self.write(name, waiting)
        self.counts[name] += len(waiting)
        waiting.clear()

    def _failed(self, error: PyMongoError) -> BookError:
        return BookError(super()._failed(error).message, "repeating it is safe: documents are replaced, never added to")


def check(text: str) -> None:
    """Raise ValueError, KeyError or TypeError for anything that is not a record of a document that can be written."""
    try:
        bson.encode(_understand(text)[1], check_keys=True)
    except (BSONError, OverflowError) as error:
        raise ValueError(str(error)) from None


def _understand(text: str) -> tuple[str, Document]:
    """(collection, document) of one record."""
    record = extended.loads(text)
    name, document = record["collection"], _wide(record["document"])
    if name not in COLLECTIONS:
        raise ValueError(f"no collection {name!r} is known")
    if not isinstance(document, dict) or document.get("_id") is None:
        raise ValueError("a document without an _id")
    return name, document


def _wide(value: Any) -> Any:
    """The value with its integers as int64, which JSON does not tell from shorter ones."""
    if isinstance(value, dict):
        return {key: _wide(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_wide(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        if not -_LARGEST <= value < _LARGEST:
            raise ValueError(f"{value} is out of range")
        return Int64(value)
    return value
