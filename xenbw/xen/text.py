"""One spelling for a VM's name, whichever tool or file it came from."""

from __future__ import annotations

# xl names a migrating domain so: tools/xl/xl_vmcontrol.c (receiver), tools/xl/xl_migrate.c (sender).
_MIGRATION_SUFFIXES = ("--incoming", "--migratedaway")


def decode(raw: bytes) -> str:
    r"""`raw` as text: UTF-8, with each byte that is not UTF-8 shown as \xNN (so nothing is lost and nothing fails)."""
    return raw.decode("utf-8", errors="backslashreplace")


def base_name(name: str) -> str:
    """The VM's own name: `name` without the one suffix that xl appends while the domain migrates."""
    for suffix in _MIGRATION_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
