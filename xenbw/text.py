"""Names and other texts that come from guests: one spelling, whichever tool or file told them, and fit to be shown."""

from __future__ import annotations

# What xl calls a domain that it receives, until it may run (tools/xl/xl_vmcontrol.c, create_domain; xl_migrate.c,
# migrate_receive: it gets its name first and is unpaused then), and one that the other host has (migrate_domain).
INCOMING, AWAY = "--incoming", "--migratedaway"


def decode(raw: bytes) -> str:
    r"""`raw` as text: UTF-8, with each byte that is not UTF-8 shown as \xNN (so nothing is lost and nothing fails)."""
    return raw.decode("utf-8", errors="backslashreplace")


def base_name(name: str) -> str:
    """`name` without the one suffix that xl appends while a domain migrates. A VM may have such a name as its own: see
    xen/identity.py."""
    for suffix in (INCOMING, AWAY):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def printable(text: str) -> str:
    r"""`text` on one line, with what is not printable (control and format characters, line breaks, lone surrogates)
    as escapes like \x1b."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
