"""Names and other texts from guests: one spelling, whichever tool or file they come from, and safe to print."""

from __future__ import annotations

# xl appends INCOMING to the name of a domain that it receives, until the domain may run (tools/xl/xl_vmcontrol.c,
# create_domain; xl_migrate.c, migrate_receive: it renames the domain and then unpauses it), and AWAY to the name of a
# domain that has moved to the other host (migrate_domain).
INCOMING, AWAY = "--incoming", "--migratedaway"


def decode(raw: bytes) -> str:
    r"""`raw` as text: UTF-8, with each byte that is not UTF-8 shown as \xNN (so nothing is lost and nothing fails)."""
    return raw.decode("utf-8", errors="backslashreplace")


def base_name(name: str) -> str:
    """`name` without the suffix that xl appends while a domain migrates. A VM's own name may also end like that: see
    xen/identity.py."""
    for suffix in (INCOMING, AWAY):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def printable(text: str) -> str:
    r"""`text` on one line; characters that are not printable (control and format characters, line breaks, lone
    surrogates) become escapes like \x1b."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
