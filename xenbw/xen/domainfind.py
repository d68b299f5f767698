"""Finding the config file of a VM by its name, in the directories where the host keeps them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xenbw.errors import XenbwError
from xenbw.xen.domaincfg import DomainConfig, read

_SUFFIXES = ("", ".cfg", ".conf")
# xend's own store of managed domains: S-expressions, no config that an admin writes.
_FOREIGN_SUFFIX = ".sxp"


@dataclass(frozen=True)
class Found:
    """The config of the VM, or None; `problems` are sentences on files and directories that were passed over."""

    config: DomainConfig | None
    problems: tuple[str, ...]


def find(name: str, dirs: Iterable[Path], *, read: Callable[[Path], DomainConfig] = read) -> Found:
    """The config of the VM `name`: the file called NAME, NAME.cfg or NAME.conf, else one with `name = NAME` inside.

    Looks at regular files directly in `dirs` (symlinks followed, each real file read once); never at a path built from
    `name`. A file called so that names another VM inside is not it. What cannot be read becomes a problem.
    """
    files, problems = _files(dirs)
    titles = [name + suffix for suffix in _SUFFIXES]
    named = sorted((path for path in files if path.name in titles), key=lambda path: titles.index(path.name))
    seen: set[str] = set()
    for path in [*named, *files]:
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        try:
            config = read(path)
        except XenbwError as error:
            problems.append(str(error))
            continue
        if config.name == name or (config.name is None and path.name in titles):
            return Found(config, tuple(problems))
    return Found(None, tuple(problems))


def _files(dirs: Iterable[Path]) -> tuple[list[Path], list[str]]:
    files: list[Path] = []
    problems: list[str] = []
    for directory in dirs:
        try:
            files += _regular_files(directory)
        except OSError as error:
            problems.append(f"{directory}: {error.strerror}")
    return files, problems


def _regular_files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.suffix != _FOREIGN_SUFFIX and path.is_file():
            yield path
