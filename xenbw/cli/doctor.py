"""xenbw doctor: find what is wrong with this host, and say how to fix it."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from xenbw.cli.command import Command, Context
from xenbw.cli.terminal import say, warn
from xenbw.doctor import last
from xenbw.doctor.finding import Finding, Level
from xenbw.errors import XenbwError
from xenbw.report.document import dump
from xenbw.text import printable


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--on", metavar="BRIDGE", help="also send packets on this bridge of the host")


def run(options: Namespace, context: Context) -> int:
    # doctor examines every part of xenbw, and so imports all of it.
    from xenbw.doctor.examination import examine
    from xenbw.doctor.host import Host
    from xenbw.doctor.rig import require_bridge

    if os.geteuid() != 0:
        raise XenbwError("xenbw doctor sends packets and reads the firewall", "run it as root")
    host = Host(context.settings, context.run, context.clock)
    findings: list[Finding] = []
    if options.on is not None:
        require_bridge(options.on)
    with _stoppable(), closing(examine(host, options.on)) as found:
        for finding in found:
            findings.append(finding)
            if not options.json:
                say(_text(finding))
    told = last.document(findings, context.clock.tick().wall)
    say(dump(told) if options.json else _summary(findings))
    try:
        last.keep(context.settings.daemon.run_dir, told)
    except OSError as error:
        warn(f"note: the result is not kept: {error.filename}: {error.strerror}")
    return 1 if any(finding.level is Level.FAIL for finding in findings) else 0


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the examination as Ctrl-C does, so that it cleans up after itself."""

    def stop(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _text(finding: Finding) -> str:
    line = f"{finding.level}  {finding.topic}: {printable(finding.text)}"
    return f"{line}\n      fix: {printable(finding.fix)}" if finding.fix else line


def _summary(findings: Iterable[Finding]) -> str:
    counts = Counter(finding.level for finding in findings)
    return ", ".join(f"{counts[level]} {level}" for level in Level)


COMMAND = Command(arguments, run)
