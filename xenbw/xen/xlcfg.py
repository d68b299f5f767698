"""Parse xl's config files with libxlutil's grammar (tools/libs/util/libxlu_cfg_l.l, _y.y and libxlu_cfg.c).

The parser reads bytes, accepts and refuses exactly what Xen 4.17's library does, oddities included, and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from xenbw.text import decode

Value: TypeAlias = "str | tuple[Value, ...]"
# Both types can grow in place; otherwise each of many `+=` would copy the whole value.
_Raw: TypeAlias = "bytearray | list[_Raw]"

# Far more than in any real config (vNUMA nests two deep), so that hostile input cannot exhaust the stack.
_MAX_DEPTH = 100

_TOKEN = re.compile(
    rb"""(?P<blank>[ \t]+)
    | (?P<newline>\n|\#[^\n]*\n)
    | (?P<name>[a-z][._0-9a-z]*)
    | (?P<number>[0-9][0-9a-fx]*)
    | (?P<string>'(?:[^'\\\n]|\\[^\n])*'|"(?:[^"\\\n]|\\[^\n])*")
    | (?P<mark>\+=|[=;,\[\]])""",
    re.VERBOSE,
)
_ESCAPES = {
    b'"': b'"', b"'": b"'", b"\\": b"\\", b"a": b"\a", b"b": b"\b",
    b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v",
}  # fmt: skip
# How strtoul(…, 10) reads a number; see _escape.
_STRTOUL = re.compile(rb"[ \t\v\f\r]*[+-]?[0-9]+")


class ConfigSyntaxError(Exception):
    """The text does not follow the grammar: `reason`, at `line` (counted from 1)."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True)
class _Token:
    kind: str
    text: bytes
    line: int

    def is_mark(self, text: bytes) -> bool:
        return self.kind == "mark" and self.text == text

    @property
    def ends_statement(self) -> bool:
        return self.kind in ("newline", "end") or self.is_mark(b";")


def parse(data: bytes) -> dict[str, Value]:
    """The settings in `data`: numbers as their text, lists as tuples. A later assignment wins; `+=` appends to it.

    Raises ConfigSyntaxError.
    """
    return {name: _decoded(value) for name, value in _Parser(data).settings().items()}


class _Parser:
    """Recursive descent over the tokens; one method for each rule of libxlu_cfg_y.y."""

    def __init__(self, data: bytes) -> None:
        self._tokens = _tokens(data)
        self._next = next(self._tokens)

    def settings(self) -> dict[str, _Raw]:
        settings: dict[str, _Raw] = {}
        while self._next.kind != "end":
            if self._next.ends_statement:
                self._take()
            else:
                self._assignment(settings)
        return settings

    def _assignment(self, settings: dict[str, _Raw]) -> None:
        name = self._take()
        operator = self._take()
        if name.kind != "name" or not (operator.is_mark(b"=") or operator.is_mark(b"+=")):
            raise ConfigSyntaxError(name.line, "expected 'name = value'")
        value = self._value(depth=0)
        if not self._next.ends_statement:
            raise ConfigSyntaxError(self._next.line, "expected the end of the line after the value")
        key = name.text.decode("ascii")
        if operator.is_mark(b"+=") and key in settings:
            _add(settings[key], value, operator.line)
        else:
            settings[key] = value

    def _value(self, depth: int) -> _Raw:
        token = self._take()
        if token.kind == "number":
            return bytearray(token.text)
        if token.kind == "string":
            return _dequoted(token)
        if token.is_mark(b"[") and depth < _MAX_DEPTH:
            return self._list(depth + 1)
        raise ConfigSyntaxError(token.line, "expected a string, a number or a list")

    def _list(self, depth: int) -> list[_Raw]:
        items: list[_Raw] = []
        self._skip_newlines()
        while not self._next.is_mark(b"]"):
            items.append(self._value(depth))
            self._skip_newlines()
            if self._next.is_mark(b","):
                self._take()
                self._skip_newlines()
            elif not self._next.is_mark(b"]"):
                raise ConfigSyntaxError(self._next.line, "expected ',' or ']' in the list")
        self._take()
        return items

    def _skip_newlines(self) -> None:
        while self._next.kind == "newline":
            self._take()

    def _take(self) -> _Token:
        taken = self._next
        if taken.kind != "end":
            self._next = next(self._tokens)
        return taken


def _tokens(data: bytes) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(data):
        match = _TOKEN.match(data, at)
        if match is None:
            # The library's scanner drops one unknown byte at the very end: its error state has nothing left to match.
            if at == len(data) - 1:
                break
            raise ConfigSyntaxError(line, "expected a name, a number, a closed string or a list")
        at = match.end()
        if match.lastgroup != "blank":
            yield _Token(str(match.lastgroup), match.group(), line)
        line += match.lastgroup == "newline"
    yield _Token("end", b"", line)


def _dequoted(token: _Token) -> bytearray:
    body = token.text[1:-1]
    result = bytearray()
    at = 0
    while (backslash := body.find(b"\\", at)) >= 0:
        result += body[at:backslash]
        meaning, at = _escape(body, backslash + 1, token.line)
        result += meaning
    return result + body[at:]


def _escape(body: bytes, at: int, line: int) -> tuple[bytes, int]:
    r"""What the escape with its letter at `at` means, and where the text continues.

    xlu__cfgl_dequote checks a number after \0 to \7 (decimal, two or three characters) and then forgets to store it;
    its check of \x can never pass.
    """
    letter = body[at : at + 1]
    if letter in _ESCAPES:
        return _ESCAPES[letter], at + 1
    number = _STRTOUL.match(body[at + 1 : at + 4])
    if letter in b"01234567" and number and number.end() >= 2:
        return b"", at + 1 + number.end()
    raise ConfigSyntaxError(line, "unknown backslash escape in the string")


def _add(before: _Raw, added: _Raw, line: int) -> None:
    if isinstance(before, list) != isinstance(added, list):
        raise ConfigSyntaxError(line, "cannot add a list to a string or a string to a list")
    before.extend(added)  # type: ignore[arg-type]  # both are lists, or both bytes


def _decoded(value: _Raw) -> Value:
    return decode(bytes(value)) if isinstance(value, bytearray) else tuple(_decoded(item) for item in value)
