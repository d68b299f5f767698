"""Config files in the older style of xm, which were Python: read from the syntax tree, never run.

Only what is written out is known: strings, integers, lists and tuples of them, `+` between them and names assigned so
before. What a condition, loop, function or `%` computes is unknown.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from xenbw.xen.text import decode
from xenbw.xen.xlcfg import ConfigSyntaxError, Value

_Known: TypeAlias = "str | int | tuple[_Known, ...]"


@dataclass(frozen=True)
class Settings:
    """`known` settings, integers as their decimal text, and the names of those that only running it would tell."""

    known: dict[str, Value]
    unknown: frozenset[str]


def parse(data: bytes) -> Settings:
    """The settings in `data`. Raises ConfigSyntaxError where it is not Python."""
    try:
        return _settings(data)
    except SyntaxError as error:
        raise ConfigSyntaxError(error.lineno or 1, error.msg) from None
    except (ValueError, RecursionError, MemoryError):  # NUL bytes, endless numbers, nested beyond what fits
        raise ConfigSyntaxError(1, "not Python that can be read") from None


def _settings(data: bytes) -> Settings:
    known: dict[str, _Known] = {}
    unknown: set[str] = set()
    for statement in _syntax_tree(data).body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Name):
            # Python, but what a file looks like whose writing stopped in the middle of a word.
            raise ConfigSyntaxError(statement.lineno, "expected 'name = value'")
        names, value = _assignment(statement, known)
        if value is None:
            lost = set(_names_touched(statement, known))
            unknown |= lost
            known = {name: value for name, value in known.items() if name not in lost}
        else:
            unknown -= names
            known |= dict.fromkeys(names, value)
    return Settings({name: _text(value) for name, value in known.items()}, frozenset(unknown))


def _syntax_tree(data: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # '\d' and the like; the admin's Python is not ours to judge
        # xm's Python had byte strings: Latin-1 keeps each byte as one character until the value is decoded.
        return ast.parse(data.decode("latin-1"))


def _assignment(statement: ast.stmt, known: dict[str, _Known]) -> tuple[set[str], _Known | None]:
    """The names and the value of a plain `name = value` or `name += value`; no value for any other statement."""
    match statement:
        case ast.Assign(targets=targets, value=value):
            names = {target.id for target in targets if isinstance(target, ast.Name)}
            return names, _value(value, known) if len(names) == len(targets) else None
        case ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value):
            return {name}, _sum(known.get(name), _value(value, known))
        case _:
            return set(), None


def _names_touched(statement: ast.stmt, known: dict[str, _Known]) -> Iterator[str]:
    """The names that `statement` may give another value: those it binds, and lists that it could change in place."""
    for node in ast.walk(statement):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                if isinstance(known.get(name), tuple):
                    yield name
            case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name, asname=asname):
                yield asname or name


def _value(node: ast.expr, known: dict[str, _Known]) -> _Known | None:
    match node:
        case ast.Constant(value=str() | int() as value) if not isinstance(value, bool):
            return value
        case ast.Name(id=name):
            return known.get(name)
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            items = [_value(element, known) for element in elements]
            return None if None in items else tuple(item for item in items if item is not None)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(_value(left, known), _value(right, known))
        case _:
            return None


def _sum(left: _Known | None, right: _Known | None) -> _Known | None:
    if isinstance(left, str) and isinstance(right, str):
        return left + right
    if isinstance(left, tuple) and isinstance(right, tuple):
        return left + right
    return None


def _text(value: _Known) -> Value:
    if isinstance(value, tuple):
        return tuple(_text(item) for item in value)
    if isinstance(value, int):
        return str(value)
    try:
        return decode(value.encode("latin-1"))
    except UnicodeEncodeError:  # written as \u….: text already
        return value
