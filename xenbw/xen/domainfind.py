"""Finding the config file of a VM by its name, in the directories where the host keeps them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xenbw.errors import XenbwError
from xenbw.xen.domaincfg import DomainConfig, read

_SUFFIXES = ("", ".cfg", ".conf")
# xend's own store of managed domains: S-expressions, no config that an admin writes.
_FOREIGN_SUFFIX = ".sxp"
# Where xendomains finds the domains to start with dom0 (XENDOMAINS_AUTO in /etc/default/xendomains).
_AUTO = "auto"


@dataclass(frozen=True)
class Found:
    """The config of the VM, or None; `problems` are sentences on files and directories that were passed over.

    `rivals` says which files name the VM and differ, where none of them could be chosen; "" otherwise.
    """

    config: DomainConfig | None
    problems: tuple[str, ...]
    rivals: str = ""


def find(
    name: str, dirs: Iterable[Path], *, macs: Collection[str] = (), read: Callable[[Path], DomainConfig] = read
) -> Found:
    """The config of the VM `name`: the file called NAME, NAME.cfg or NAME.conf, or one with `name = NAME` inside.

    Looks at regular files directly in `dirs` (symlinks followed, each real file read once); never at a path built from
    `name`. A file called so that names another VM inside is not it. What cannot be read becomes a problem.

    macs: those with which the VM runs now. Of several files that name it, the one counts that has these MACs; else the
    one that is in the folder `auto`; else the one that is called as the VM; else none, unless they say the same.
    """
    folders = list(dirs)
    files, problems = _files(folders)
    titles = [name + suffix for suffix in _SUFFIXES]
    named = sorted((path for path in files if path.name in titles), key=lambda path: titles.index(path.name))
    seen: set[str] = set()
    found: list[DomainConfig] = []
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
            found.append(config)
    chosen = _choose(found, titles, macs, _started_at_boot(folders))
    rivals = ""
    if found and chosen is None:
        rivals = f"{', '.join(str(config.path) for config in found)} all say name = {name!r}, and differ"
        problems.append(f"{rivals}: none was taken; name one with --config-file")
    return Found(chosen, tuple(problems), rivals)


def _choose(
    found: Sequence[DomainConfig], titles: Sequence[str], macs: Collection[str], at_boot: Collection[str]
) -> DomainConfig | None:
    """The one of several configs of a VM that counts, or None where nothing tells."""
    for group in (
        [config for config in found if any(vif.mac in macs for vif in config.vifs)],
        [config for config in found if os.path.realpath(config.path) in at_boot],
    ):
        if group and all(config.vifs == group[0].vifs for config in group):
            return group[0]
    if found and (found[0].path.name in titles or all(config.vifs == found[0].vifs for config in found)):
        return found[0]
    return None


def _started_at_boot(dirs: Iterable[Path]) -> set[str]:
    """The real paths of the files that xendomains starts with dom0: those in the folder `auto`."""
    started: set[str] = set()
    for directory in dirs:
        try:
            started.update(os.path.realpath(path) for path in (directory / _AUTO).iterdir())
        except OSError:
            continue  # most folders have none, and what cannot be read there tells nothing
    return started


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
