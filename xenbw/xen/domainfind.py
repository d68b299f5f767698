"""Find the config file of a VM by its name, in the host's directories of config files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xenbw.errors import XenbwError
from xenbw.xen.domaincfg import DomainConfig, read

_SUFFIXES = ("", ".cfg", ".conf")
# Files of Xen's own in /etc/xen. xend's, as xend-config.sxp and those about managed domains, are S-expressions.
_FOREIGN_NAMES, _FOREIGN_SUFFIX = ("xl.conf", "oxenstored.conf", "cpupool"), ".sxp"
# In this folder xendomains finds the domains that it starts with dom0 (XENDOMAINS_AUTO in /etc/default/xendomains).
_AUTO = "auto"


@dataclass(frozen=True)
class Found:
    """The config of the VM, or None; `problems` are sentences on files and directories that were ignored.

    `rivals` says which files name the VM and differ, if none of them could be chosen; "" otherwise.
    """

    config: DomainConfig | None
    problems: tuple[str, ...]
    rivals: str = ""


def find(
    name: str,
    dirs: Iterable[Path],
    *,
    macs: Collection[str] = (),
    missing_ok: bool = False,
    read: Callable[[Path], DomainConfig] = read,
) -> Found:
    """The config of the VM `name`: the file called NAME, NAME.cfg or NAME.conf, or one with `name = NAME` inside.

    Looks at regular files directly in `dirs` (symlinks followed, each real file read once); never at a path built from
    `name`, nor at Xen's own files. A file called NAME that names another VM inside does not match. A file that cannot
    be read is a problem; a missing folder is one unless missing_ok.

    macs: the MACs with which the VM runs now. If several files name the VM, the file with these MACs is chosen; else
    the file that is in the folder `auto`; else the file that is called NAME; else none, unless all files say the same.
    """
    folders = list(dirs)
    files, problems = _files(folders, missing_ok)
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
        problems.append(f"{rivals}: none was used; name one with --config-file")
    return Found(chosen, tuple(problems), rivals)


def _choose(
    found: Sequence[DomainConfig], titles: Sequence[str], macs: Collection[str], at_boot: Collection[str]
) -> DomainConfig | None:
    """The one config to use among several of a VM, or None if nothing decides between them."""
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
    """The real paths of the files that xendomains starts with dom0, which are in the folder `auto`."""
    started: set[str] = set()
    for directory in dirs:
        try:
            started.update(os.path.realpath(path) for path in (directory / _AUTO).iterdir())
        except OSError:
            continue  # most folders have no `auto`, and one that cannot be read decides nothing
    return started


def _files(dirs: Iterable[Path], missing_ok: bool) -> tuple[list[Path], list[str]]:
    files: list[Path] = []
    problems: list[str] = []
    for directory in dirs:
        try:
            files += _regular_files(directory)
        except OSError as error:
            if not (missing_ok and isinstance(error, FileNotFoundError)):
                problems.append(f"{directory}: {error.strerror}")
    return files, problems


def _regular_files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.suffix != _FOREIGN_SUFFIX and path.name not in _FOREIGN_NAMES and path.is_file():
            yield path
