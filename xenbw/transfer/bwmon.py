"""The database of the 2014 Ruby script, xen-bandwidth-monitor, read from its MongoDB server or from a dump.

Its db.rb: `virtual_machines` {hostname, bandwidth_limit_gigabytes}; `bandwidth_measurements` {virtual_machine_id,
cumulative_gigabytes, current_gigabytes, timestamp}, where timestamp is mongoid-metastamp's {time, year, month, ...},
its year and month as they were on that host's calendar. Its bwmon.rb takes whole KiB from xentop, divides by 1024
twice, and starts from 0 in each calendar month: a gigabyte there is 2^30 bytes, in and out together, and the limit is
compared with the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import bson
import pymongo
from bson import json_util
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from pymongo.errors import ConfigurationError, PyMongoError
from pymongo.uri_parser import parse_uri

from xenbw.errors import XenbwError

GIGABYTE = 2**30
DATABASE = "bwmon"  # its mongoid.yml

_MACHINES, _MEASUREMENTS = "virtual_machines", "bandwidth_measurements"
_PATIENCE_MS = 5_000
_LARGEST = 2**63 - 1
_EXTENDED_JSON = json_util.JSONOptions(tz_aware=True)


Month = tuple[int, int]
Since = Callable[[str], datetime]
"""since(name): when the VM's present period began."""


@dataclass(frozen=True)
class Watched:
    """A VM in the script's database.

    hostname: as in the document. name: without blanks, as the script compares it with xentop's names. limit_bytes None:
    the limit is not usable. used_bytes: the usage of the present period by the last measurement, at measured_at.
    measured_at None: there is no measurement in the period.
    """

    hostname: str
    name: str
    limit_bytes: int | None
    used_bytes: int
    measured_at: datetime | None


def read(source: str, months: Collection[Month], since: Since) -> list[Watched]:
    """The VMs by name, with their usage since their period began. months: the calendar months that the periods lie in.

    source: a mongodb:// address, or a folder that mongodump or mongoexport wrote. Raises XenbwError.
    """
    try:
        if source.startswith(("mongodb://", "mongodb+srv://")):
            return _from_server(source, months, since)
        folder = Path(source)
        return _watched(_stored(folder, _MACHINES), _stored(folder, _MEASUREMENTS), months, since)
    except (PyMongoError, BSONError) as error:
        said = " ".join(str(error).split())[:300]
        raise XenbwError(
            f"the script's database: {said}", "or dump it with mongodump, and name the folder that this makes"
        ) from None


def _from_server(uri: str, months: Collection[Month], since: Since) -> list[Watched]:
    try:
        client: Any = pymongo.MongoClient(
            uri, serverSelectionTimeoutMS=_PATIENCE_MS, connectTimeoutMS=_PATIENCE_MS, tz_aware=True, appname="xenbw"
        )
        database = client[parse_uri(uri)["database"] or DATABASE]
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    try:
        within = [{"timestamp.year": year, "timestamp.month": month} for year, month in months]
        measured = database[_MEASUREMENTS].find({"$or": within})
        return _watched(database[_MACHINES].find(), measured, months, since)
    finally:
        client.close()


def _stored(folder: Path, collection: str) -> Iterator[Mapping[str, Any]]:
    """The documents of a collection, one at a time, from a file of a dump."""
    dumped, exported = folder / f"{collection}.bson", folder / f"{collection}.json"
    path = dumped if dumped.exists() else exported
    try:
        with path.open("rb") as stream:
            if path == dumped:
                yield from bson.decode_file_iter(stream, CodecOptions(tz_aware=True))
            else:
                for line in stream:
                    yield _document(line.decode("utf-8"))
    except OSError as error:
        raise XenbwError(
            f"{path}: {error.strerror}", f"name a folder with {collection}.bson (mongodump) or .json (mongoexport)"
        ) from None
    except (BSONError, ValueError) as error:
        raise XenbwError(f"{path}: {error}", "dump it again; nothing was taken over") from None


def _document(line: str) -> dict[str, Any]:
    """The document on a line of MongoDB's Extended JSON. Raises ValueError for anything else."""
    try:
        found = json_util.loads(line, json_options=_EXTENDED_JSON)
    except (BSONError, LookupError, ArithmeticError, AttributeError, TypeError, RecursionError) as error:
        # What the versions of json_util raise for {"$date": "never"} and the like.
        raise ValueError(f"not Extended JSON: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ValueError("not one document a line")
    return found


class _Counted:
    """The script's sums for one VM in one calendar month: the last one before the present period, and the last one."""

    def __init__(self) -> None:
        self._before: tuple[datetime, int] | None = None
        self.last: tuple[datetime, int] | None = None

    def take(self, at: datetime, used: int, since: datetime) -> None:
        if at <= since:
            self._before = max(self._before or (at, used), (at, used))
        else:
            self.last = max(self.last or (at, used), (at, used))

    @property
    def used_bytes(self) -> int:
        """The usage in the present period."""
        before = self._before[1] if self._before else 0
        return max(0, self.last[1] - before) if self.last else 0


def _watched(
    machines: Iterable[Mapping[str, Any]],
    measurements: Iterable[Mapping[str, Any]],
    months: Collection[Month],
    since: Since,
) -> list[Watched]:
    known = [document for document in machines if isinstance(document.get("hostname"), str)]
    began = {str(document.get("_id")): since(_name(document["hostname"])) for document in known}
    counted: dict[str, dict[Month, _Counted]] = {owner: {} for owner in began}
    for document in measurements:
        stamp, owner = document.get("timestamp"), str(document.get("virtual_machine_id"))
        used = _bytes(document.get("cumulative_gigabytes"))
        if not isinstance(stamp, dict) or used is None or owner not in counted:
            continue
        month: Any = (stamp.get("year"), stamp.get("month"))
        at = stamp.get("time")
        if month in months and isinstance(at, datetime):
            counted[owner].setdefault(month, _Counted()).take(at, used, began[owner])
    found = {}
    for document in known:
        hostname, limit = document["hostname"], _bytes(document.get("bandwidth_limit_gigabytes"))
        sums = counted[str(document.get("_id"))].values()
        measured_at = max((one.last[0] for one in sums if one.last), default=None)
        used = sum(one.used_bytes for one in sums)
        found[hostname] = Watched(hostname, _name(hostname), limit or None, used, measured_at)
    return [found[hostname] for hostname in sorted(found)]


def _name(hostname: str) -> str:
    """The name that the script looks for: its bwmon.rb drops all blanks from a hostname before it compares names."""
    return "".join(hostname.split())


def _bytes(gigabytes: object) -> int | None:
    """The script's gigabytes in bytes. They are whole numbers, or the doubles that the mongo shell writes."""
    if isinstance(gigabytes, bool) or not isinstance(gigabytes, int | float):
        return None
    size = gigabytes * GIGABYTE
    return int(size) if 0 <= size <= _LARGEST else None
