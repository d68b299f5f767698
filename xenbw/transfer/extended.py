"""MongoDB's Extended JSON: documents as lines of text, where 64-bit integers and times keep their value."""

from __future__ import annotations

from typing import Any

from bson import json_util
from bson.errors import BSONError

_OPTIONS = json_util.JSONOptions(json_mode=json_util.JSONMode.RELAXED, tz_aware=True)


def dumps(document: dict[str, Any]) -> str:
    """One line, ASCII: integers are plain, times {"$date": RFC 3339}."""
    return str(json_util.dumps(document, json_options=_OPTIONS))


def loads(text: str) -> dict[str, Any]:
    """The document of a line. Raises ValueError for anything else."""
    try:
        found = json_util.loads(text, json_options=_OPTIONS)
    except (BSONError, LookupError, ArithmeticError, AttributeError, TypeError, RecursionError) as error:
        # What json_util comes to, in one version or another, of {"$date": "never"} and its like.
        raise ValueError(f"not Extended JSON: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ValueError("not one document a line")
    return found
