"""Run docs/mongodb.md as a program: read its tables, and run its mongosh statements through pymongo."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bson import json_util

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mongodb.md"
PASSWORD = "typed at the prompt"

_KEY = re.compile(r"([{,]\s*)([A-Za-z_$][\w$]*)\s*:")
_STATEMENT = re.compile(
    r"db\.(?:(?P<collection>\w+)\.)?(?P<verb>\w+)\((?P<values>.*?)\)(?P<rest>(?:\.\w+\([^()]*\))*)", re.S
)
_REST = re.compile(r"\.(\w+)\(([^()]*)\)")
_WORDS = (
    (re.compile(r'ISODate\(("[^"]*")\)'), r'{"$date": \1}'),
    (re.compile(r'Long\(("[^"]*")\)'), r'{"$numberLong": \1}'),
    (re.compile(r"passwordPrompt\(\)"), f'"{PASSWORD}"'),
)


def block(words: str, language: str = "js") -> str:
    """The first code block of that language after these words."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"```{language}\n(.*?)```", text[text.index(words) :], re.S)
    assert found, words
    return found[1]


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#)", text, re.S | re.M)
    assert found, title
    return found[1]


def table(title: str) -> dict[str, str]:
    """A section's tables as first column -> second column."""
    rows = re.findall(r"^\| (.+?) \| (.*?) \|", section(title), re.M)
    return {name: kind for names, kind in rows for name in re.findall(r"`(\w+)`", names)}


def run(words: str, database: Any) -> Any:
    """Run the statements after these words. Returns the last statement's answer."""
    answer = None
    for statement in re.split(r"\n(?=db\.)", block(words).strip()):
        found = _STATEMENT.fullmatch(statement)
        assert found, statement
        target = database[found["collection"]] if found["collection"] else database
        answer = _call(target, found["verb"], _values(found["values"]), _REST.findall(found["rest"]))
    return answer


def _values(text: str) -> list[Any]:
    for pattern, plain in _WORDS:
        text = pattern.sub(plain, text)
    quoted = _KEY.sub(r'\1"\2":', text)
    values: list[Any] = json_util.loads(f"[{quoted}]")
    return values


def _call(target: Any, verb: str, values: list[Any], rest: list[tuple[str, str]]) -> Any:
    match verb:
        case "find":
            cursor = target.find(*values)
            for name, value in rest:
                (given,) = _values(value)
                cursor = getattr(cursor, name)(list(given.items()) if name == "sort" else given)
            return list(cursor)
        case "aggregate":
            return list(target.aggregate(*values))
        case "updateOne":
            return target.update_one(*values[:2], **(values[2] if values[2:] else {}))
        case "createView":
            name, source, pipeline = values
            return target.command("create", name, viewOn=source, pipeline=pipeline)
        case "createUser" | "createRole":
            (command,) = values
            names = {"createUser": "user", "createRole": "role"}
            return target.command(verb, command.pop(names[verb]), **command)
    raise AssertionError(verb)
