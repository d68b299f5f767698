"""Parse config files in the older style of xm, which were Python: their syntax tree is read, and nothing is run.

Only literal values are known: strings, integers, lists and tuples of them, `+` between them, and names to which such a
value was assigned before. A value that a condition, a loop, a function or `%` computes is unknown.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from xenbw.text import decode
from xenbw.xen.xlcfg import ConfigSyntaxError, Value

_Known: TypeAlias = "str | int | tuple[_Known, ...]"

# Enough for the literals of a file of 1 MiB and some `+`. A short file can double a value again and again.
_MOST = 4 << 20
# The settings for which config files are read; the admin is told if only running the file would reveal them.
_NEEDED = frozenset({"name", "vif"})
# A call of one of these functions may give a value to any name.
_OTHER_CODE = frozenset({"execfile", "exec", "eval", "globals", "locals", "vars", "setattr", "__import__"})


@dataclass(frozen=True)
class Settings:
    """`known` settings, integers as decimal text, and the names of settings that only running the file would reveal."""

    known: dict[str, Value]
    unknown: frozenset[str]


def parse(data: bytes) -> Settings:
    """The settings in `data`. Raises ConfigSyntaxError if it is not Python, or its values are huge."""
    try:
        reader = _Reader()
        for statement in _syntax_tree(data).body:
            reader.take(statement)
        return Settings({name: _text(one.value) for name, one in reader.known.items()}, frozenset(reader.unknown))
    except SyntaxError as error:
        raise ConfigSyntaxError(error.lineno or 1, error.msg) from None
    except (ValueError, RecursionError, MemoryError):  # NUL bytes, endless numbers, nested beyond what fits
        raise ConfigSyntaxError(1, "not Python that can be read") from None


def _syntax_tree(data: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for '\d' and the like, which are no concern of ours
        # xm's Python had byte strings: as Latin-1 each byte stays one character until the value is decoded.
        return ast.parse(data.decode("latin-1"))


@dataclass(frozen=True)
class _Literal:
    """A literal value and its size: its characters, plus one for each item of a list."""

    value: _Known
    size: int


class _Reader:
    """The settings that are known after the statements read so far."""

    def __init__(self) -> None:
        self.known: dict[str, _Literal] = {}
        self.unknown: set[str] = set()
        self._room = _MOST

    def take(self, statement: ast.stmt) -> None:
        """Read the next statement. Raises ConfigSyntaxError."""
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Name):
            # This is Python, but more likely a file that was cut off in the middle of a word.
            raise ConfigSyntaxError(statement.lineno, "expected 'name = value'")
        names, value = self._assignment(statement)
        if _runs_other_code(statement):
            self.unknown |= self.known.keys() | _NEEDED
            self.known = {}
        elif value is None:
            for name in set(self._names_touched(statement)):
                self.unknown.add(name)
                self.known.pop(name, None)
        else:
            self.unknown -= names
            self.known |= dict.fromkeys(names, value)

    def _assignment(self, statement: ast.stmt) -> tuple[set[str], _Literal | None]:
        """The names and the value of a plain `name = value` or `name += value`; no value for other statements."""
        match statement:
            case ast.Assign(targets=targets, value=value):
                names = {target.id for target in targets if isinstance(target, ast.Name)}
                return names, self._value(value) if len(names) == len(targets) else None
            case ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value):
                return {name}, self._sum(self.known.get(name), self._value(value), statement.lineno)
            case _:
                return set(), None

    def _names_touched(self, statement: ast.stmt) -> Iterator[str]:
        """The names whose values `statement` may change: the names that it binds, and lists that it uses."""
        for node in ast.walk(statement):
            match node:
                case ast.Name(id=name, ctx=ast.Load()):
                    if name in self.known and isinstance(self.known[name].value, tuple):
                        yield name
                case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    yield name
                case ast.alias(name=name, asname=asname):
                    yield asname or name

    def _value(self, node: ast.expr) -> _Literal | None:
        match node:
            case ast.Constant(value=str() as value):
                return self._literal(value, len(value), node.lineno)
            case ast.Constant(value=int() as value) if not isinstance(value, bool):
                return self._literal(value, value.bit_length() // 3 + 1, node.lineno)
            case ast.Name(id=name):
                return self.known.get(name)
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return self._list([self._value(element) for element in elements], node.lineno)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return self._sum(self._value(left), self._value(right), node.lineno)
            case _:
                return None

    def _list(self, items: list[_Literal | None], line: int) -> _Literal | None:
        known = [item for item in items if item is not None]
        if len(known) < len(items):
            return None
        return self._literal(tuple(item.value for item in known), sum(item.size + 1 for item in known), line)

    def _sum(self, left: _Literal | None, right: _Literal | None, line: int) -> _Literal | None:
        if left is None or right is None:
            return None
        one, two, size = left.value, right.value, left.size + right.size
        self._take_room(size, line)
        if isinstance(one, str) and isinstance(two, str):
            return _Literal(one + two, size)
        if isinstance(one, tuple) and isinstance(two, tuple):
            return _Literal(one + two, size)
        return None

    def _literal(self, value: _Known, size: int, line: int) -> _Literal:
        self._take_room(size, line)
        return _Literal(value, size)

    def _take_room(self, size: int, line: int) -> None:
        """Count the size of all values: sums and lists of lists may grow far larger than the file."""
        self._room -= size
        if self._room < 0:
            raise ConfigSyntaxError(line, "its values are larger than those of any domain")


def _runs_other_code(statement: ast.stmt) -> bool:
    """Whether a statement runs code from outside the file, which may give a value to any name."""
    for node in ast.walk(statement):
        match node:
            case ast.ImportFrom(names=[ast.alias(name="*")]):
                return True
            case ast.Call(func=ast.Name(id=name)) if name in _OTHER_CODE:
                return True
    return False


def _text(value: _Known) -> Value:
    if isinstance(value, tuple):
        return tuple(_text(item) for item in value)
    if isinstance(value, int):
        return str(value)
    try:
        return decode(value.encode("latin-1"))
    except UnicodeEncodeError:  # it was written as \u…, so it is text already
        return value
