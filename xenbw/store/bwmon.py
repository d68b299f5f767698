"""What the 2014 Ruby script, xen-bandwidth-monitor, keeps in MongoDB: read from its server, or from a dump of it.

Its db.rb: `virtual_machines` {hostname, bandwidth_limit_gigabytes}; `bandwidth_measurements` {virtual_machine_id,
cumulative_gigabytes, current_gigabytes, timestamp}, where timestamp is mongoid-metastamp's {time, year, month, ...},
its year and month as they were on that host's calendar. Its bwmon.rb takes whole KiB from xentop, divides by 1024
twice, and starts from 0 in each calendar month: a gigabyte there is 2^30 bytes, in and out together, and the limit is
compared with the same number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import bson
import pymongo
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from pymongo.errors import ConfigurationError, PyMongoError
from pymongo.uri_parser import parse_uri

from xenbw.errors import XenbwError
from xenbw.store import extended

GIGABYTE = 2**30
DATABASE = "bwmon"  # its mongoid.yml

_MACHINES, _MEASUREMENTS = "virtual_machines", "bandwidth_measurements"
_PATIENCE_MS = 5_000
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Watched:
    """One VM of the script's. limit_bytes None: none that makes sense. used_bytes: what it counted this month, by its
    last measurement at measured_at; None where it made none."""

    hostname: str
    limit_bytes: int | None
    used_bytes: int
    measured_at: datetime | None


def read(source: str, year: int, month: int) -> list[Watched]:
    """The VMs by name, with what was counted in that month.

    source: mongodb:// and the rest of an address, or a folder that mongodump or mongoexport wrote. Raises XenbwError.
    """
    try:
        if source.startswith(("mongodb://", "mongodb+srv://")):
            return _from_server(source, year, month)
        folder = Path(source)
        return _watched(_stored(folder, _MACHINES), _stored(folder, _MEASUREMENTS), year, month)
    except PyMongoError as error:
        said = " ".join(str(error).split())[:300]
        raise XenbwError(
            f"the script's database: {said}", "or dump it with mongodump, and name the folder that this makes"
        ) from None


def _from_server(uri: str, year: int, month: int) -> list[Watched]:
    try:
        client: Any = pymongo.MongoClient(
            uri, serverSelectionTimeoutMS=_PATIENCE_MS, connectTimeoutMS=_PATIENCE_MS, tz_aware=True, appname="xenbw"
        )
        database = client[parse_uri(uri)["database"] or DATABASE]
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    try:
        measured = database[_MEASUREMENTS].find({"timestamp.year": year, "timestamp.month": month})
        return _watched(database[_MACHINES].find(), measured, year, month)
    finally:
        client.close()


def _stored(folder: Path, collection: str) -> Iterator[Mapping[str, Any]]:
    """A collection's documents from a file of a dump, one at a time."""
    dumped, exported = folder / f"{collection}.bson", folder / f"{collection}.json"
    path = dumped if dumped.exists() else exported
    try:
        with path.open("rb") as stream:
            if path == dumped:
                yield from bson.decode_file_iter(stream, CodecOptions(tz_aware=True))
            else:
                for line in stream:
                    yield extended.loads(line.decode("utf-8"))
    except OSError as error:
        raise XenbwError(
            f"{path}: {error.strerror}", f"name a folder with {collection}.bson (mongodump) or .json (mongoexport)"
        ) from None
    except (BSONError, ValueError) as error:
        raise XenbwError(f"{path}: {error}", "dump it again; nothing was taken over") from None


def _watched(
    machines: Iterable[Mapping[str, Any]], measurements: Iterable[Mapping[str, Any]], year: int, month: int
) -> list[Watched]:
    newest: dict[Any, tuple[datetime, int]] = {}
    for document in measurements:
        stamp, owner = document.get("timestamp"), str(document.get("virtual_machine_id"))
        used = _bytes(document.get("cumulative_gigabytes"))
        if not isinstance(stamp, dict) or used is None:
            continue
        if (stamp.get("year"), stamp.get("month")) == (year, month) and isinstance(stamp.get("time"), datetime):
            newest[owner] = max(newest.get(owner, (stamp["time"], 0)), (stamp["time"], used))
    found = {}
    for document in machines:
        name, limit = document.get("hostname"), _bytes(document.get("bandwidth_limit_gigabytes"))
        if isinstance(name, str):
            at, used = newest.get(str(document.get("_id")), (None, 0))
            found[name] = Watched(name, limit or None, used, at)
    return [found[name] for name in sorted(found)]


def _bytes(gigabytes: object) -> int | None:
    """Its gigabytes, a whole number or the double that the mongo shell makes of one, in bytes."""
    if isinstance(gigabytes, bool) or not isinstance(gigabytes, int | float):
        return None
    size = gigabytes * GIGABYTE
    return int(size) if 0 <= size <= _LARGEST else None
