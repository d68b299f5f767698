"""The HTML part of a mail, made from its text, so that neither a guest's name nor a template can add markup."""

from __future__ import annotations

import re

# A line of a table of facts: a label, a colon, at least one space, a value.
_FACT = re.compile(r"([^\s:][^:]{0,30}):[ \t]+(.*)")
_INDENT = "  "
# As html.escape does it; that module loads a table of 2,000 names, and most daemons never write a mail.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_HEAD = '<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head><body style="font-family:sans-serif">\n'
_END = "</body></html>\n"


def html_of(text: str) -> str:
    """A text as an HTML page. Empty lines part its paragraphs; several lines like "Host: dom0-a" become a table, and
    indented lines a list."""
    blocks = re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").strip("\n"))
    return _HEAD + "".join(_block(block.strip("\n").split("\n")) for block in blocks if block.strip()) + _END


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)


def _block(lines: list[str]) -> str:
    facts = [_FACT.fullmatch(line) for line in lines]
    if len(lines) > 1 and all(facts):
        rows = "".join(f"<tr><td>{_escape(fact[1])}<td>{_escape(fact[2])}\n" for fact in facts if fact)
        return f'<table cellpadding="3">\n{rows}</table>\n'
    head = [line for line in lines if not line.startswith(_INDENT)]
    items = "".join(f"<li>{_escape(line.strip())}\n" for line in lines if line.startswith(_INDENT))
    shown = "<p>" + "<br>\n".join(map(_escape, head)) + "</p>\n" if head else ""
    return shown + (f"<ul>\n{items}</ul>\n" if items else "")
