"""A host's command line in a folder: its configuration, its xl, its ledger, and xenbw as an admin runs it."""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tests.support.pace import busy
from xenbw import config
from xenbw.accounting import Pending, Share, hour_of
from xenbw.clock import Moment, boot_id
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger import usagelog, viflog
from xenbw.ledger.bindings import NewBinding
from xenbw.ledger.ledger import Alive, Ledger
from xenbw.model import VM
from xenbw.rundir.control import Server

REPO = Path(__file__).parents[2]
CAPTURES = REPO / "tests/data/xen-4.17"
GUESTS = CAPTURES / "03-many-vifname-longname-oddname/xl-list.txt"
"""The VMs web1, customer-42.example.org_web+db, ren and "sp ace:col" run."""


class Console:
    """A host whose xl prints a captured list."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.xen = root / "xen"
        self.ledger_path = root / "lib/ledger.db"
        self.run_dir = root / "run"
        for folder in (self.xen, self.run_dir, root / "bin"):
            folder.mkdir()
        self.config = root / "xenbw.toml"
        self.config.write_text(
            f'[host]\nname = "dom0-a"\n[toolstack]\nconfig_dirs = ["{self.xen}"]\n'
            f'[ledger]\npath = "{self.ledger_path}"\n[daemon]\nrun_dir = "{self.run_dir}"\n[period]\nclock_wait = 0\n'
        )
        self.lists(GUESTS)

    def lists(self, output: Path) -> None:
        """Let `xl list` print the content of this file from now on."""
        self.script("xl", f"[ \"$*\" = list ] && exec cat '{output}'\nexit 64\n")

    def script(self, name: str, body: str) -> None:
        """Put a shell script on PATH."""
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}")
        path.chmod(0o755)

    @property
    def env(self) -> dict[str, str]:
        search = f"{self.root / 'bin'}:{os.environ['PATH']}"
        return {**os.environ, "PATH": search, "XENBW_CONFIG": str(self.config), "PYTHONPATH": str(REPO)}

    def run_as(self, user: int, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command as another user, who may not enter this source tree: from a copy of it, with Debian's
        Python."""
        lib = self.root / "python"
        if not lib.exists():
            shutil.copytree(REPO / "xenbw", lib / "xenbw", ignore=shutil.ignore_patterns("__pycache__"))
            subprocess.run(["chmod", "-R", "a+rX", str(lib)], check=True)
        return subprocess.run(
            ["/usr/bin/python3", "-m", "xenbw.cli.main", *words],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            cwd="/",
            env={**self.env, "PYTHONPATH": str(lib)},
            timeout=busy(30),
            user=user,
            group=user,
            extra_groups=[],
        )

    def run(self, *words: str | bytes, wrap: tuple[str, ...] = (), **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `xenbw words…` without a terminal; `wrap` is a command that runs it."""
        return subprocess.run(
            [*wrap, sys.executable, "-m", "xenbw.cli.main", *words],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=self.env,
            timeout=busy(30),
            **options,
        )

    def done(self, *words: str) -> str:
        """The output of `xenbw words…`, which must succeed without a complaint."""
        result = self.run(*words)
        assert (result.returncode, result.stderr) == (0, ""), result
        return result.stdout

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        opened = Ledger.open(self.ledger_path, create=True)
        try:
            yield opened
        finally:
            opened.close()

    def vm(self, name: str) -> VM:
        with self.ledger() as ledger:
            vm = ledger.vm_named(name)
            assert vm is not None, f"{name} is not in the ledger"
            return vm

    def runs(self, name: str, interface: str = "vif7.0", ips: str = "") -> int:
        """Start the VM with one vif; returns the binding's id."""
        with self.ledger() as ledger:
            new = NewBinding(
                name=name,
                boot_id=boot_id(),
                domid=7,
                devid=0,
                kind="vif",
                ifindex=abs(hash(interface)) % 10**6,
                interface=interface,
                mac="00:16:3e:77:00:0b",
                ips=ips,
                bridge="xenbr0",
            )
            return viflog.bind(ledger, datetime.now(UTC), new)

    def uses(self, name: str, in_bytes: int, out_bytes: int) -> None:
        """Commit new traffic of the VM, as the daemon does."""
        now = datetime.now(UTC)
        with self.ledger() as ledger:
            roster = Roster(ledger, config.load(self.config))
            roster.load(Moment(now, trusted=True))
            entry = next(entry for entry in roster.entries.values() if entry.vm.name == name)
            share = Share(entry.period.start, hour_of(now), in_bytes, out_bytes, 0)
            usagelog.commit(ledger, Pending((), ((entry.vm.id, share),)), Alive(now, time.clock_gettime(7), boot_id()))


class StandIn:
    """The daemon's control socket with the daemon's judge behind it, but without a kernel: nothing is really
    blocked."""

    def __init__(self, console: Console) -> None:
        self.asked: list[str] = []
        self.problems: list[str] = []
        self.throttle_problem: str | None = None
        self.floods: list[str] = []
        self.writes = True
        self._console = console
        self._server = Server(console.run_dir, self._answer)
        self._stop, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._stopper)
        self._thread.join()
        os.close(self._stop)
        self._server.close()

    def _serve(self) -> None:
        while self._stop not in select.select([self._server, self._stop], [], [])[0]:
            stream = self._server.accept()
            if stream is not None and stream in select.select([stream], [], [], 5)[0]:
                self._server.serve(stream)

    def _answer(self, op: str) -> dict[str, Any]:
        self.asked.append(op)
        if op == "sync":
            self._judge()
        return {
            "ok": self.writes,
            "changes": [],
            "version": "0.1.0",
            "meter": "kernel",
            "problems": self.problems,
            "throttle_problem": self.throttle_problem,
            "floods": self.floods,
        }

    def _judge(self) -> None:
        settings, moment = config.load(self._console.config), Moment(datetime.now(UTC), trusted=True)
        with self._console.ledger() as ledger:
            roster = Roster(ledger, settings)
            roster.load(moment)
            Judge(ledger, settings).judge(roster, usagelog.present(ledger), list(roster.entries), moment)


# A shell that starts the tests in the background makes them, and their children, ignore Ctrl-C.
_HEEDING_CTRL_C = ("env", "--default-signal=INT")


class Terminal:
    """Runs `xenbw words…` with a real pseudo-terminal as its controlling terminal."""

    def __init__(self, console: Console, *words: str) -> None:
        self._mine, theirs = os.openpty()
        self._seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *_HEEDING_CTRL_C, sys.executable, "-m", "xenbw.cli.main", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=console.env,
        )
        os.close(theirs)

    def expect(self, text: str) -> str:
        """Wait until the terminal shows this text; returns all output up to it since the last call."""
        while text not in self._seen:
            assert self._read(), f"the program ended; it showed {self._seen!r}"
        before, _, self._seen = self._seen.partition(text)
        return before + text

    def type(self, keys: str) -> None:
        """Press keys when the program waits for them: a Ctrl-C between its question and its read would be lost."""
        state = Path(f"/proc/{self._process.pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] not in "SZ":
            time.sleep(0.001)
        os.write(self._mine, keys.encode())

    def end(self) -> tuple[int, str]:
        """The exit status, and the rest of the output."""
        while self._read():
            pass
        status = self._process.wait(busy(10))
        os.close(self._mine)
        return status, self._seen

    def _read(self) -> bool:
        """Read the program's next output; False once the program has ended. A program that prints nothing more is
        killed."""
        if not select.select([self._mine], [], [], busy(10))[0]:
            self._process.kill()
            raise AssertionError(f"nothing more is shown after {self._seen!r}")
        try:
            data = os.read(self._mine, 65536)
        except OSError:  # EIO: the last process on the terminal has ended
            return False
        self._seen += self._decoder.decode(data).replace("\r\n", "\n")
        return bool(data)
