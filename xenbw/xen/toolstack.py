"""Ask the toolstack which domains exist: `xl list`, or `xm list` on hosts with a Xen older than 4.5."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from xenbw.errors import UsageError, XenbwError
from xenbw.runner import Runner
from xenbw.text import decode

# Rows are read from their right end: a name may hold spaces, colons and digits and be wider than its column.
# xl prints "%-40s %5d %5lu %5d     rbpscd  %8.1f" (tools/xl/xl_info.c), xm the same columns with other gaps
# (tools/python/xen/xm/main.py, xm_brief_list).
_RUNNING = re.compile(
    rb"(?P<name>.*?) +(?P<domid>\d{1,9}) +(?P<mem>\d+) +(?P<vcpus>\d+)"
    rb"(?: +(?P<state>[-?A-Za-z]{6})| {11}) +(?P<time>\d+\.\d)"
)
# xm lists a managed domain that is powered off with five blanks for the ID and ten for the state. This pattern is tried
# first, since the last word of a name may be a number, which _RUNNING would take for the ID.
_POWERED_OFF = re.compile(rb"(?P<name>.*?) {7,}(?P<mem>\d+) +(?P<vcpus>\d+) +(?P<time>\d+\.\d)")
# The columns, with the blanks before them, are never longer, so only the last bytes of a row are matched. Otherwise, in
# a name that is a megabyte of blanks, the columns could begin at each blank.
_TAIL = 160

# What printf makes of the missing name of a domain that has left xenstore but is still listed by the hypervisor.
_NAMELESS = "(null)"


@dataclass(frozen=True)
class Domain:
    """A line of the list. `domid` is None for a managed domain that is powered off (xm only).

    `name` has no blanks at its end: the list fills its column with blanks, so blanks of the name cannot be recognised.
    `state` is six letters, dashes or question marks: running, blocked, paused, shut down, crashed, dying. It is "" if
    the list has none.
    """

    name: str
    domid: int | None
    state: str = field(default="", compare=False)

    @property
    def dying(self) -> bool:
        """Whether it was destroyed but is still listed; xend calls such a domain Zombie-NAME."""
        return self.state.endswith("d")


def parse_list(output: bytes) -> tuple[Domain, ...]:
    """The domains in the output of `xl list` or `xm list`, Domain-0 included, in the order printed.

    Lines that are not rows are skipped, since a name with a line break must not hide the other VMs. Output without the
    header or without any row raises XenbwError: Domain-0 is always listed.
    """
    lines = iter(output.split(b"\n"))
    if not any(line.split()[:2] == [b"Name", b"ID"] for line in lines):
        raise _unreadable("no header line with Name and ID")
    domains = [domain for line in lines if (domain := _row(line.rstrip(b" "))) is not None]
    if not domains:
        raise _unreadable("no domain below the header")
    return tuple(domain for domain in domains if domain.name != _NAMELESS)


def guests(domains: Iterable[Domain]) -> tuple[Domain, ...]:
    """The domains that may be VMs: all but Domain-0 and domains that were destroyed."""
    return tuple(domain for domain in domains if domain.domid != 0 and not domain.dying)


@dataclass(frozen=True)
class Toolstack:
    """The host's toolstack; `command` is "xl" or "xm"."""

    command: str
    run: Runner

    def list(self, timeout: float) -> tuple[Domain, ...]:
        """The domains that exist now, Domain-0 included. Waits at most `timeout` seconds.

        Raises XenbwError when the command is missing, hangs, fails or prints something else.
        """
        result = self.run([self.command, "list"], timeout=timeout)
        if result.status != 0:
            raise XenbwError(
                f"{self.command} list failed with exit status {result.status}",
                f"run '{self.command} list' as root to see why",
            )
        return parse_list(result.stdout)


def detect(setting: str, run: Runner, which: Callable[[str], str | None] = shutil.which) -> Toolstack:
    """The toolstack that `setting` (auto, xl or xm) asks for; auto means xl if it is on PATH, else xm.

    Raises XenbwError when auto finds neither, UsageError for another setting.
    """
    if setting in ("xl", "xm"):
        return Toolstack(setting, run)
    if setting != "auto":
        raise UsageError(f"unknown toolstack {setting!r}", "allowed are auto, xl and xm")
    for command in ("xl", "xm"):
        if which(command):
            return Toolstack(command, run)
    raise XenbwError("neither xl nor xm found", "is this a Xen dom0, and is /usr/sbin on PATH?")


def _row(line: bytes) -> Domain | None:
    """The domain in a line, which has no blanks at its end; None if the line is not a row of the list."""
    start, tail = line[:-_TAIL], line[-_TAIL:]
    row = _POWERED_OFF.fullmatch(tail) or _RUNNING.fullmatch(tail)
    if row is None:
        return None
    known = row.groupdict()
    domid, state = known.get("domid"), known.get("state") or b""
    return Domain(decode((start + row["name"]).rstrip(b" ")), None if domid is None else int(domid), decode(state))


def _unreadable(what: str) -> XenbwError:
    return XenbwError(f"cannot read the list of domains: {what}", "does 'xl list' (or 'xm list') work by hand?")
