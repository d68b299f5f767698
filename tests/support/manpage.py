"""Manual pages as they are written, in the part of man(7) that ours use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FOLDER = Path(__file__).resolve().parents[2] / "man"

_ESCAPES = {r"\-": "-", r"\(dq": '"', r"\(aq": "'", r"\e": "\\", r"\~": " "}
_ESCAPE = re.compile(r"\\(?:f.|[-e~&]|\(..)")
_WORD = re.compile(r'"([^"]*)"|(\S+)')
# Macros that set their arguments side by side, in two fonts by turns.
_ALTERNATING = frozenset({"BI", "BR", "IB", "IR", "RB", "RI"})


@dataclass(frozen=True)
class Line:
    """macro: "" for text. text: what it shows, without escapes."""

    macro: str
    text: str

    @classmethod
    def parse(cls, raw: str) -> Self:
        macro, _, rest = raw[1:].partition(" ") if raw.startswith(".") else ("", "", raw)
        if macro:
            words = [quoted or plain for quoted, plain in _WORD.findall(rest)]
            rest = ("" if macro in _ALTERNATING else " ").join(words)
        return cls(macro, _ESCAPE.sub(lambda found: _ESCAPES.get(found[0], ""), rest))


Lines = list[Line]


def read(name: str) -> Lines:
    """A page of ours."""
    return [Line.parse(raw) for raw in (FOLDER / name).read_text(encoding="ascii").splitlines()]


def text(lines: Lines) -> str:
    """All that is shown, on one line."""
    return " ".join(line.text for line in lines if line.text)


def parts(lines: Lines, macro: str) -> dict[str, Lines]:
    """What stands below each heading: SH for sections, SS for those in a section."""
    found: dict[str, Lines] = {}
    below: Lines = []
    for line in lines:
        if line.macro == macro:
            assert line.text not in found, f"{line.text} is there twice"
            below = found[line.text] = []
        else:
            below.append(line)
    return found


def entries(lines: Lines) -> dict[str, str]:
    """The tags of a list, each with its text; a new paragraph ends the list."""
    found: dict[str, str] = {}
    ends = [index for index, line in enumerate(lines) if line.macro in ("TP", "PP")]
    for start, end in zip(ends, [*ends[1:], len(lines)], strict=True):
        if lines[start].macro == "TP":
            tag = lines[start + 1].text
            assert tag not in found, f"{tag} is there twice"
            found[tag] = text(lines[start + 2 : end])
    return found


def examples(lines: Lines) -> list[str]:
    """What stands there to be typed or read as it is."""
    found: list[list[str]] = []
    for index, line in enumerate(lines):
        if line.macro == "EX":
            end = next(at for at in range(index, len(lines)) if lines[at].macro == "EE")
            found.append([inner.text for inner in lines[index + 1 : end]])
    return ["\n".join(example) for example in found]
