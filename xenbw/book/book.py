"""The book: a MongoDB with everything this host knows, beside what other hosts know.

Each host writes only documents whose _id begins with its name, always whole and with absolute values, so that any write
may be repeated. An _id is made of what identifies the thing itself, not of a row's number in this ledger, which a new
ledger would give to another thing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import pymongo
from bson.errors import BSONError
from bson.int64 import Int64
from pymongo.errors import BulkWriteError, ConfigurationError, DuplicateKeyError, InvalidURI, PyMongoError
from pymongo.write_concern import WriteConcern

from xenbw.book import foreign
from xenbw.book.changes import Chunk
from xenbw.book.documents import Document, Documents
from xenbw.book.foreign import LARGEST, LARGEST_DOCUMENT
from xenbw.book.past import Piece
from xenbw.config import Settings
from xenbw.errors import XenbwError
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import to_time
from xenbw.model import ZERO, Counters

# A server that hangs is given up after this time. Only the thread that talks to it waits.
_PATIENCE_MS = 5_000
_SOCKET_PATIENCE_MS = 20_000
_DUPLICATE_KEY = 11000  # mongo src/mongo/base/error_codes.yml


class BookError(XenbwError):
    """The book cannot be reached, refuses the login, or refuses a write."""


class Book:
    """A connection to the book, for one thread."""

    def __init__(self, settings: Settings) -> None:
        section = settings.mongodb
        self._host = settings.host_name
        self._documents = Documents(self._host, timedelta(days=section.keep_samples))
        options: dict[str, Any] = {}
        if section.user:
            options |= {"username": section.user, "password": section.password}
        if section.ca or section.certificate:
            options["tls"] = True
        if section.ca:
            options["tlsCAFile"] = str(section.ca)
        if section.certificate:
            options["tlsCertificateKeyFile"] = str(section.certificate)
        try:
            self._client: Any = pymongo.MongoClient(
                section.uri,
                serverSelectionTimeoutMS=_PATIENCE_MS,
                connectTimeoutMS=_PATIENCE_MS,
                socketTimeoutMS=_SOCKET_PATIENCE_MS,
                tz_aware=True,
                appname="xenbw",
                **options,
            )
        except (InvalidURI, ConfigurationError, ValueError, OSError) as error:
            raise BookError(f"[mongodb]: {_plainly(error)}", "see docs/mongodb.md") from None
        # An acknowledged write survives a kill -9 of the server only if it is in the journal, and the loss of a replica
        # set's primary only if a majority has it.
        self._database = self._client.get_database(
            section.database, write_concern=WriteConcern(w="majority", j=True, wtimeout=_SOCKET_PATIENCE_MS)
        )

    def prepare(self) -> None:
        """Make the indexes that queries need. Raises BookError."""
        ascending, descending = pymongo.ASCENDING, pymongo.DESCENDING
        try:
            base = self._database
            base.samples.create_index([("vm", ascending), ("at", descending)])
            base.samples.create_index("expires_at", expireAfterSeconds=0)
            base.usage.create_index([("vm", ascending), ("span", ascending), ("start", descending)])
            base.usage.create_index([("span", ascending), ("start", descending), ("in_bytes", descending)])
            base.history.create_index([("vm", ascending), ("span", ascending), ("start", descending)])
            base.history.create_index("expires_at", expireAfterSeconds=0)
            base.bindings.create_index([("vm", ascending), ("started_at", descending)])
            base.digests.create_index([("vm", ascending), ("started_at", descending)])
            base.events.create_index([("at", descending)])
            base.events.create_index([("vm", ascending), ("at", descending)])
        except PyMongoError as error:
            raise self._failed(error) from None

    def write(self, collection: str, documents: Iterable[Document]) -> None:
        """Replace documents by _id unless newer ones are there, and wait until that is durable. Raises BookError."""
        batch = [pymongo.ReplaceOne(_older(document), document, upsert=True) for document in documents]
        if not batch:
            return
        try:
            self._database.get_collection(collection).bulk_write(batch, ordered=False)
        except BulkWriteError as error:
            failures = [*error.details["writeErrors"], *error.details["writeConcernErrors"]]
            if any(failure.get("code") != _DUPLICATE_KEY for failure in failures):
                raise self._failed(error) from None
        except PyMongoError as error:
            raise self._failed(error) from None

    def write_past(self, ledger: Ledger, rev: int, pieces: Iterable[Piece]) -> None:
        """Write pieces of VMs' history, as they were at that rev. Raises BookError."""
        version = {"rev": Int64(rev), "ledger": ledger.meta("id")}
        self.write("history", [self._documents.past(piece) | version for piece in pieces])

    def forget_lives(self, digest: sqlite3.Row, kept: Iterable[sqlite3.Row], ledger_id: str) -> None:
        """Delete this host's documents of bindings that were folded into a digest. kept: the bindings of the digest's
        VM and time that still have a row in the ledger. Raises BookError."""
        folded = {
            "vm": digest["vm"],
            "started_at": {"$gte": to_time(digest["started_at"]), "$lte": to_time(digest["ended_at"])},
            "ended_at": {"$ne": None},
            "host": self._host,
            "ledger": ledger_id,
            "_id": {"$nin": [self._documents.binding_id(row) for row in kept]},
        }
        try:
            self._database.bindings.delete_many(folded)
        except PyMongoError as error:
            raise self._failed(error) from None

    # documents that all hosts write

    def policies(self, names: list[str]) -> dict[str, Document | None]:
        """The documents of these VMs, by name. None for a document that is too large for an allowance, or that Python
        cannot read, as with a date beyond the year 9999. Raises BookError."""
        try:
            known = [row["_id"] for row in self._database.vms.find({"_id": {"$in": names}}, ["_id"])]
        except PyMongoError as error:
            raise self._failed(error) from None
        return dict.fromkeys(known) | self._readable(known)

    def _readable(self, names: list[str]) -> dict[str, Document]:
        small = {"$lte": [{"$bsonSize": "$$ROOT"}, LARGEST_DOCUMENT]}
        try:
            found = self._database.vms.find({"_id": {"$in": names}, "$expr": small})
            return {document["_id"]: document for document in found}
        except BSONError:
            middle = len(names) // 2
            return self._readable(names[:middle]) | self._readable(names[middle:]) if middle else {}
        except PyMongoError as error:
            raise self._failed(error) from None

    def offer(self, name: str, give: Mapping[str, Any], expected: Mapping[str, Any], at: datetime) -> bool:
        """Change fields of a VM if they still have the expected values (None: absent, null or false). Returns whether
        they had."""
        change = {**_bson(give), "edited_at": at, "edited_by": self._host}
        still = {field: {"$in": [None, False]} if value is None else value for field, value in _bson(expected).items()}
        return self._update({"_id": name, **still}, {"$set": change}, upsert=False)

    def enter(self, name: str, values: Mapping[str, Any], at: datetime) -> None:
        """Enter a VM, or bring one back that was removed. A document that another host or a panel entered stays."""
        document = {**_bson(values), "name": name, "edited_at": at, "edited_by": self._host}
        self._update({"_id": name, "retired_at": {"$type": "date"}}, {"$unset": {"retired_at": ""}, "$set": document})
        self._update({"_id": name}, {"$setOnInsert": document}, upsert=True)

    def retire(self, name: str, at: datetime) -> None:
        """Mark a VM as removed, unless it was edited later."""
        change = {"retired_at": at, "edited_at": at, "edited_by": self._host}
        self._update({"_id": name, "edited_at": {"$not": {"$gt": at}}}, {"$set": change})

    def aggregate(self, collection: str, pipeline: list[dict[str, Any]]) -> list[Document]:
        """The rows that an aggregation pipeline makes of a collection. Raises BookError."""
        try:
            return list(self._database.get_collection(collection).aggregate(pipeline, allowDiskUse=True))
        except PyMongoError as error:
            raise self._failed(error) from None

    def elsewhere(self, periods: Mapping[str, datetime], now: datetime) -> tuple[dict[str, Counters], list[str]]:
        """What other hosts counted for these VMs in these periods, and a sentence for each document that is not
        believed. Raises BookError."""
        wanted = {
            "host": {"$ne": self._host},
            "vm": {"$in": list(periods)},
            "span": "period",
            "start": {"$in": sorted(set(periods.values()))},
            "removed_at": None,
        }
        rows = self.aggregate("usage", foreign.by_host(wanted, now))
        faults = foreign.named(self.aggregate("usage", foreign.left_out(wanted, now)))
        found: dict[str, Counters] = {}
        for row in rows:
            vm, start, host = (row["_id"][key] for key in ("vm", "start", "host"))
            if start != periods.get(vm):
                continue
            if max(row["in_bytes"], row["out_bytes"]) > foreign.most(start, now):
                faults.append(foreign.unbelieved(vm, host, row))
                continue
            sums = found.get(vm, ZERO).plus(Counters(row["in_bytes"], row["out_bytes"]))
            found[vm] = Counters(*(min(amount, LARGEST) for amount in sums))
        return found, faults

    def _update(self, which: Document, change: Document, *, upsert: bool = False) -> bool:
        try:
            return bool(self._database.vms.update_one(which, change, upsert=upsert).matched_count)
        except DuplicateKeyError:
            return False  # another client entered it in this moment
        except PyMongoError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        self._client.close()

    def documents(self, ledger: Ledger, chunk: Chunk) -> Iterator[tuple[str, list[Document]]]:
        """(collection, documents) for rows of the ledger."""
        return self._documents.of(ledger, chunk)

    def heartbeat(self, at: datetime, facts: Mapping[str, Any]) -> Document:
        """This host's own document."""
        return {"_id": self._host, "host": self._host, "seen_at": at, **facts}

    def _failed(self, error: PyMongoError) -> BookError:
        return BookError(f"the book: {_plainly(error)}", "the ledger keeps what the book lacks, and it is pushed later")


def _older(document: Document) -> Document:
    """The filter for what a document may replace: not a newer version. A server that hung may carry out a request long
    after it was given up and sent again with newer values; then the filter finds nothing, and the insert fails at the
    _id."""
    if "rev" not in document:
        return {"_id": document["_id"]}
    older = [{"ledger": {"$ne": document["ledger"]}}, {"rev": {"$lte": document["rev"]}}]
    return {"_id": document["_id"], "$or": older}


def _plainly(error: Exception) -> str:
    """The driver's message on one line. pymongo never puts a password into it."""
    return " ".join(str(error).split())[:300]


def _bson(values: Mapping[str, Any]) -> Document:
    """Values of a VM for MongoDB: sizes and rates as 64-bit integers, words and networks as text, thresholds as they
    are."""
    return {
        field: Int64(value) if field.endswith(("_bytes", "_bits")) and value else _plain(value)
        for field, value in values.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [item if isinstance(item, int) else str(item) for item in value]
    return str(value) if isinstance(value, StrEnum) else value
