"""xenbwd: one loop waits for the kernel, xenstore, the CLI, signals and the clock, and has one call for each."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import sdnotify

from xenbw import __version__, config
from xenbw.clock import Clock, SystemClock, Timedated, boot_id
from xenbw.config import Settings
from xenbw.daemon.cycle import Work
from xenbw.daemon.lock import only_one
from xenbw.errors import XenbwError
from xenbw.ledger import rescue, vmlog
from xenbw.ledger.ledger import CorruptLedgerError
from xenbw.nft.netlink import RuleWatch
from xenbw.rundir import lastrun, overfile
from xenbw.rundir.control import Answer, Server, socket_path
from xenbw.runner import run
from xenbw.tell import carriers
from xenbw.tell.courier import Courier
from xenbw.tell.log import log_to
from xenbw.vifs.udev import Watcher
from xenbw.xen.xenstore import Lookup

if TYPE_CHECKING:
    from xenbw.book.sync import Sync

log = logging.getLogger("xenbw")

# Seconds between pings to systemd, which ends a hung loop after WatchdogSec=60.
_PING = 10.0
# Seconds between two looks at the host's nft rules while other programs change them all the time.
_RULES_PAUSE = 0.05
# Seconds between two looks at the ledger when hooks poke: of many guests that start at once, each pokes several times,
# and reading a thousand VMs takes 0.1 s. The first poke after a pause is answered at once.
_NEWS_PAUSE = 0.25
# Seconds. systemd reads a notice at once, except during its own reload; then metering goes on without it.
_SYSTEMD_PATIENCE = 0.1
# Microseconds that systemd grants at each sign of life while the ledger is copied.
_COPYING = 10_000_000
# Seconds that systemd grants a start (TimeoutStartSec=), the number of VMs for which that is enough, and seconds for
# each VM more: ten times what reading, judging and blocking a VM takes (4.5 s for 10,000 on two busy cores).
_START, _FEW, _EACH = 10, 1000, 0.005
_ENDED = "thread has ended (systemctl restart xenbwd; the log says why)"


class Daemon:
    """The loop. It decides when; Work does the work."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        if self._notifier.socket is not None:
            self._notifier.socket.settimeout(_SYSTEMD_PATIENCE)
        self._selector = selectors.DefaultSelector()
        self._running = True
        self._reload = False
        self._pinged_at = 0.0
        self._rules_at, self._rules_done = math.inf, -math.inf
        self._news_at, self._news_done = math.inf, -math.inf
        settings.daemon.run_dir.mkdir(parents=True, exist_ok=True)
        settings.ledger.path.parent.mkdir(parents=True, exist_ok=True)
        # Two daemons on one ledger would count every byte twice; two in one run folder would undo each other's blocks.
        self._run_lock = only_one(settings.daemon.run_dir / "xenbwd.lock")
        self._ledger_lock = only_one(settings.ledger.path.with_name(f"{settings.ledger.path.name}.lock"))
        ended = lastrun.begin(settings.daemon.run_dir)
        over = overfile.read(str(settings.daemon.run_dir / "over"))
        ledger = rescue.open_or_replace(
            settings.ledger.path, over.blocked if over else None, clock.tick().wall, self._ask_for_time
        )
        self._ask_for_more_time(vmlog.count(ledger))
        self._lookup = Lookup()
        self._watcher, self._rules = Watcher(), RuleWatch()
        self._work = Work(
            settings, ledger, self._lookup, clock, Timedated(run).vouches, boot_id(), run, self._rules.apply
        )
        self._work.metrics.beside = self._with_threads
        self._work.troubles.sync, self._work.troubles.ended = lambda: self._sync, ended
        self._clock = clock
        self._courier: Courier | None = None
        self._sync: Sync | None = None
        self._server = Server(settings.daemon.run_dir, self._answer)

    def _ask_for_time(self, _done: float) -> None:
        """Copying a large ledger before its upgrade, or replacing a damaged one, may take longer than
        TimeoutStartSec=."""
        self._notifier.notify(f"EXTEND_TIMEOUT_USEC={_COPYING}\nSTATUS=copying, checking or repairing the ledger")

    def _ask_for_more_time(self, vms: int) -> None:
        """READY means that all blocks hold; with many thousand VMs that takes longer than TimeoutStartSec=."""
        if vms > _FEW:
            seconds = _START + (vms - _FEW) * _EACH
            self._notifier.notify(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000:.0f}\nSTATUS=reading {vms} VMs")

    def serve(self) -> None:
        """Run until SIGTERM or SIGINT. Blocks stay after that."""
        self._listen()
        self._work.enforce()
        self._notifier.notify("READY=1")
        self._work.start()
        log.info("xenbwd %s runs: %s", __version__, self._work.status().summary())
        self._start_threads()
        due = time.monotonic()
        while self._running:
            for key, _ in self._selector.select(max(0.0, min(due, self._rules_at, self._news_at) - time.monotonic())):
                handle: Callable[[], None] = key.data
                handle()
            if time.monotonic() >= self._news_at:
                self._take_news()
            if self._reload:
                self._reload = False
                self._reconfigure()
            if time.monotonic() >= self._rules_at:
                self._rules_at = math.inf
                self._work.on_rules()
                self._rules_done = time.monotonic()
            if time.monotonic() >= due:
                self._renew_socket()
                self._work.cycle(self._watcher.drain())
                self._tell_systemd()
                if self._courier and self._work.take_mail():
                    self._courier.wake()
                due = max(due + self._work.settings.meter.interval, time.monotonic())
        self._work.catch_up()
        log.info("xenbwd stops, its blocks stay: %s", self._work.status().summary())

    def close(self) -> None:
        """Close everything, after a clean stop or a failure."""
        self._notifier.notify("STOPPING=1")
        self._server.close()
        self._watcher.close()
        self._rules.close()
        self._lookup.close()
        self._stop_threads()
        self._work.close()
        if not self._running:
            lastrun.end(self._work.settings.daemon.run_dir)
        for lock in (self._run_lock, self._ledger_lock):
            os.close(lock)

    def _start_threads(self) -> None:
        """Messages and the book wait for other machines: each has a thread and its own connection to the ledger."""
        settings = self._work.settings
        if carriers.ways(settings):
            self._courier = Courier(settings, self._clock)
            for fault in self._courier.faults:
                log.error("%s", fault)
            self._courier.start()
        if settings.mongodb.uri:
            # The book's modules and OpenSSL take 4 MB, and most hosts have no book.
            from xenbw.book.sync import Sync

            self._sync = Sync(settings, self._clock)
            self._sync.start()

    def _stop_threads(self) -> None:
        for thread in (self._courier, self._sync):
            if thread is not None:
                thread.stop()
        self._courier = self._sync = None

    def _listen(self) -> None:
        """Register each source of events with the call that handles it."""
        wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)
        for source, handle in (
            (wake, lambda: _drain(wake)),
            (self._watcher, self._hear_of_interfaces),
            (self._lookup, lambda: self._work.on_answers(self._lookup.answers())),
            (self._rules, self._hear_of_rules),
            (self._server, self._accept),
        ):
            self._selector.register(source, selectors.EVENT_READ, handle)

    def _hear_of_interfaces(self) -> None:
        # Without a pause: newer kernels leave a gone vif's chains, and they would catch the next vif of that name.
        if self._work.on_events(self._watcher.drain()):
            self._take_news()

    def _expect_news(self) -> None:
        self._news_at = min(self._news_at, max(time.monotonic(), self._news_done + _NEWS_PAUSE))

    def _hear_of_rules(self) -> None:
        # A firewall that loads changes the rules many times in a row.
        changed = self._rules.drain()
        spent, self._rules.spent = self._rules.spent, set()
        if spent:
            self._work.on_tripwire(spent, changed=changed)
        elif changed:
            self._rules_at = min(self._rules_at, max(time.monotonic(), self._rules_done + _RULES_PAUSE))

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._running = False

    def _accept(self) -> None:
        stream = self._server.accept()
        if stream is None:
            return

        def serve() -> None:
            self._selector.unregister(stream)
            self._server.serve(stream)

        self._selector.register(stream, selectors.EVENT_READ, serve)

    def _renew_socket(self) -> None:
        """If the run folder or the socket was removed, make it again. Raises XenbwError if that fails: in xenbwd's
        sandbox the folder is a mount, and once it is removed outside, only a restart by systemd gives a new one."""
        if self._server.stands():
            return
        run_dir = self._work.settings.daemon.run_dir
        path = run_dir / "xenbwd.lock"
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            if not (path.exists() and path.stat().st_ino == os.fstat(self._run_lock).st_ino):
                lock = only_one(path)
                os.close(self._run_lock)
                self._run_lock = lock
            server = Server(run_dir, self._answer)
        except OSError as error:
            raise XenbwError(f"{run_dir} was removed: {error.strerror}", "systemctl restart xenbwd") from None
        self._selector.unregister(self._server)
        self._server.shut()
        self._server = server
        self._selector.register(server, selectors.EVENT_READ, self._accept)
        log.warning("%s was removed, and is made anew", socket_path(run_dir))
        self._work.enforce()

    def _answer(self, op: str) -> Answer:
        match op:
            case "poke":
                self._expect_news()
                return {"ok": True}
            case "sync":
                return {"ok": True, "changes": self._take_news()}
            case "commit":
                return {"ok": self._work.catch_up()}
            case "status":
                return self._status()
        return {"error": f"unknown op {op!r}"}

    def _take_news(self) -> list[str]:
        """Read the ledger's news, once for all hooks that poked meanwhile: at a host's boot all its guests start."""
        self._news_at = math.inf
        # The kernel's news of interfaces comes first: a hook's poke may overtake it.
        self._work.on_events(self._watcher.drain())
        changes = self._work.sync()
        self._news_done = time.monotonic()
        return changes

    def _status(self) -> Answer:
        return {"version": __version__, **self._with_threads(self._work.status().document())}

    def _with_threads(self, status: Answer) -> Answer:
        """Add the state of the threads to that of the loop."""
        if self._courier:
            problems = [*([self._courier.problem] if self._courier.problem else []), *self._courier.faults]
            status["problems"] += [f"messages: {problem}" for problem in problems]
            if not self._courier.is_alive():
                status["problems"].append(f"messages: their {_ENDED}")
        if self._sync:
            status["book"] = self._sync.state()
            if self._sync.problem:
                status["problems"].append(self._sync.problem)
            status["problems"] += self._sync.faults
            if not self._sync.is_alive():
                status["problems"].append(f"the book: its {_ENDED}")
        return status

    def _reconfigure(self) -> None:
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._work.configure(config.load())
            self._stop_threads()
            self._start_threads()
            log.info("configuration read again")
        except CorruptLedgerError:
            raise
        except XenbwError as error:
            log.error("configuration not taken over: %s", error)
        self._notifier.notify("READY=1")

    def _tell_systemd(self) -> None:
        if time.monotonic() - self._pinged_at >= _PING:
            self._pinged_at = time.monotonic()
            book = f"; book: {self._sync.summary()}" if self._sync else ""
            self._notifier.notify(f"WATCHDOG=1\nSTATUS={self._work.status().summary()}{book}")


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, 4096)


def parser() -> argparse.ArgumentParser:
    """The command line of xenbwd; its manual page is checked against it."""
    program = argparse.ArgumentParser(prog="xenbwd", description="meters Xen guests and holds them to their allowance")
    program.add_argument("--config", metavar="FILE", type=Path, help="instead of /etc/xenbw/xenbw.toml ($XENBW_CONFIG)")
    program.add_argument("--version", action="version", version=f"xenbwd {__version__}")
    return program


def main() -> int:
    """Entry point of xenbwd. Stays in the foreground; logs to standard error, for the journal."""
    arguments = parser().parse_args()
    log_to(sys.stderr, "xenbwd")
    if arguments.config:
        os.environ["XENBW_CONFIG"] = str(arguments.config)
    try:
        if os.geteuid() != 0:
            raise XenbwError("xenbwd needs root, to read Xen and to block", "systemctl start xenbwd")
        settings = config.load()
        try:
            daemon = Daemon(settings, SystemClock())
            try:
                daemon.serve()
            finally:
                daemon.close()
        except CorruptLedgerError:
            # The mark makes the next start check the whole ledger.
            rescue.mark(settings.ledger.path)
            raise
    except XenbwError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
