"""xenbw top: show the present rates of all VMs."""

from __future__ import annotations

import json
import re
import sys
import time
from argparse import ArgumentParser, Namespace
from dataclasses import replace

from xenbw.cli import terminal
from xenbw.cli.accounts import accounts
from xenbw.cli.command import Command, Context
from xenbw.cli.fullscreen import EndedError, Fullscreen
from xenbw.cli.terminal import say, warn
from xenbw.clock import Moment, boot_id
from xenbw.judge.roster import Roster
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.meters.counters import KernelMeter
from xenbw.meters.watch import Look, Watch
from xenbw.nft.netlink import Table
from xenbw.nft.nft import TABLE
from xenbw.report.frame import View, frame, plain
from xenbw.report.table import Screen
from xenbw.report.top import SORTS, Cast, Shot, document, ordered, shot
from xenbw.rundir.dropped import Dropped

_INTERVAL, _FIRST = 1.0, 0.3  # seconds; the first rates come sooner
_PATIENCE = 0.2  # seconds to wait for a ledger that another process holds
_RENEW = 10.0  # seconds after which the ledger is read again in any case
_SORT_KEYS = {"i": "in", "o": "out", "p": "pps", "x": "refused", "u": "used", "n": "name"}
# What arrow and function keys send (ECMA-48, 5.4; xterm's SS3): none has a meaning here.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.)", re.DOTALL)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--sort", choices=SORTS, default="out", help="the order at first; default: by out")
    parser.add_argument("--once", action="store_true", help="print one plain table of one second, with all vifs")
    parser.add_argument("--json", action="store_true", help="an object a second on a line; with --once a single one")


def run(options: Namespace, context: Context) -> int:
    view = View(sort=options.sort, vifs=options.once)
    if options.once or options.json:
        _print(_Gauge(context), view, once=options.once, as_json=options.json)
        return 0
    screen = Fullscreen()
    gauge = _Gauge(context)
    try:
        with screen:
            _show(gauge, view, screen, context)
    except EndedError as ended:
        return 128 + ended.number
    return 0


def _print(gauge: _Gauge, view: View, *, once: bool, as_json: bool) -> None:
    """Print a shot each second, or one."""
    due = time.monotonic()
    while True:
        due = max(due + _INTERVAL, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
        found = gauge.next()
        if as_json:
            say(json.dumps(document(found, ordered(found.rows, view.sort))))
            sys.stdout.flush()
        else:
            say(plain(found, view))
            if found.note:
                warn(f"note: {found.note}")
        if once:
            return


def _show(gauge: _Gauge, view: View, screen: Fullscreen, context: Context) -> None:
    """Draw a frame each second and after each key, until q."""
    zone, like = context.settings.period.timezone, terminal.screen("auto") or Screen(80, colour=False, ascii=True)
    due = time.monotonic() + _FIRST
    found: Shot | None = None
    while True:
        if time.monotonic() >= due:
            found = gauge.next()
            due = time.monotonic() + _INTERVAL
        if found is not None:
            columns, lines = screen.size
            screen.draw(frame(found, view, replace(like, width=columns), lines, zone))
        for key in _SEQUENCE.sub("", screen.wait(due)):
            if key == "q":
                return
            view = _pressed(view, key)


def _pressed(view: View, key: str) -> View:
    """The view after a key."""
    if key in _SORT_KEYS:
        return replace(view, sort=_SORT_KEYS[key], reverse=False, help=False)
    if key == "r":
        return replace(view, reverse=not view.reverse)
    if key == "v":
        return replace(view, vifs=not view.vifs)
    return replace(view, help=not view.help) if key == "?" else view


class _Gauge:
    """Takes one shot after the other."""

    def __init__(self, context: Context) -> None:
        self._context, settings = context, context.settings
        own = settings.meter.source in ("auto", "nft")
        self._watch = Watch(Table(TABLE), KernelMeter(), Dropped(str(settings.daemon.run_dir)), own=own)
        self._books = _Books(context)
        self._last = self._look()
        if self._books.error is not None and not self._last.vifs:
            raise self._books.error

    def next(self) -> Shot:
        """What passed since the last shot. Raises MeterError."""
        before, self._last = self._last, self._look()
        host, at = self._context.settings.host_name, self._context.clock.tick().wall
        return shot(before, self._last, self._books.cast, host, at)

    def _look(self) -> Look:
        self._books.read()
        return self._watch.look(self._books.cast.bindings)


class _Books:
    """What the ledger says, read again when it changed. cast: the last that could be read, with the reason why it may
    be old. error: why it cannot be read now, or None."""

    def __init__(self, context: Context) -> None:
        self._settings, self._clock = context.settings, context.clock
        self._ledger: Ledger | None = None
        self._read_at = float("-inf")
        self._boot_id = boot_id()
        self.cast = Cast()
        self.error: LedgerError | None = None

    def read(self) -> None:
        """Bring `cast` up to date, as far as the ledger can be read."""
        try:
            self._renew()
            self.cast, self.error = replace(self.cast, note=""), None
        except LedgerError as error:
            self._forget()
            self.cast, self.error = replace(self.cast, note=str(error)), error

    def _renew(self) -> None:
        if self._ledger is not None and self._ledger.displaced():
            self._forget()
        if self._ledger is None:
            self._ledger = Ledger.open_to_read(self._settings.ledger.path, patience=_PATIENCE)
        changed, now = self._ledger.changed_by_others(), time.monotonic()
        if not changed and now - self._read_at < _RENEW:
            return
        with self._ledger.snapshot():
            # Periods are shown as the daemon wrote them: while it does not run, a block goes on past its period's end.
            roster = Roster(self._ledger, self._settings, record=False)
            roster.load(Moment(self._clock.tick().wall, trusted=False))
            bindings = self._ledger.live_bindings().values()
            here = {one.key: one for one in bindings if one.boot_id == self._boot_id}
            self.cast = Cast(accounts(self._ledger, roster), here)
        self._read_at = now

    def _forget(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        self._ledger, self._read_at = None, float("-inf")


COMMAND = Command(arguments, run)
