"""A miniature dom0 with xenbw installed: hook, daemon and command line of this source tree, as from a package."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from tests.support import nolegacy
from tests.support.dom0 import Dom0
from tests.support.guest import Guest
from tests.support.pace import busy, until
from xenbw.ledger import usagelog
from xenbw.ledger.ledger import Ledger
from xenbw.model import Counters
from xenbw.rundir import control

REPO = Path(__file__).resolve().parents[2]
HOOK = REPO / "hooks" / "vif-post.d" / "xenbw.hook"


class Host(Dom0):
    """A Dom0 that meters. `config`: TOML that is added to the settings which move xenbw's files into its own
    directory. `legacy`: whether its kernel has iptables' legacy tables. `libraries`: folders with Python modules, ahead
    of this tree's and the system's.

    It has more than twenty methods: one for each thing that a test does to a host, or asks it.
    """

    def __init__(
        self,
        config: str = "",
        hooks: Iterable[Path] = (HOOK,),
        *,
        legacy: bool = True,
        libraries: Iterable[Path] = (),
    ) -> None:
        super().__init__(hooks)
        self._config, self._legacy = config, legacy
        self._python_path = ":".join(map(str, (*libraries, REPO)))
        self.daemon: subprocess.Popen[bytes] | None = None
        self.started: list[str] = []  # the daemon's messages to systemd until it was ready
        self._ledger: Ledger | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        self.state = self.directory / "state"
        self.state.mkdir()
        self.run_dir, self.ledger_path = self.directory / "run", self.state / "ledger.db"
        self.log, self.config = self.directory / "xenbwd.log", self.directory / "xenbw.toml"
        self.configure(self._config)
        if not self._legacy:
            self.lose_legacy_tables()
        self.hook_env |= {
            "XENBW_CONFIG": str(self.config),
            "XENBW_HOOK": str(REPO / "hooks" / "vif-hook"),
            "XENBW_LIB": str(REPO),
            # Give the hook more time: if it gave up after two seconds on a busy machine, it would leave too little for
            # the tests.
            "XENBW_HOOK_TIMEOUT": "30",
        }
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self.directory / "notify"))
        self._exit.callback(self._notify.close)
        return self

    def lose_legacy_tables(self) -> None:
        """From now on the kernel has no legacy tables, as after a boot into another."""
        self._legacy, self.namespace.wrapper = False, nolegacy.WRAPPER

    def configure(self, config: str) -> None:
        """Write xenbw.toml; the daemon reads it at its next start or SIGHUP."""
        self.config.write_text(
            f'[daemon]\nrun_dir = "{self.run_dir}"\n[ledger]\npath = "{self.ledger_path}"\n'
            # Trust the clock even if this machine booted a moment ago.
            "commit = 1.0\n[enforce]\ninterval = 1\n[period]\nclock_wait = 0\n"
            f'[metrics]\nfile = "{self.directory}/xenbw.prom"\n'
        )
        own = self.directory / "xenbw.toml.d" / "own.toml"
        own.parent.mkdir(exist_ok=True)
        own.write_text(config)

    def start_daemon(self) -> None:
        """Start xenbwd and wait until it has told systemd that it is ready and has finished its first look at the
        host."""
        env = {"PYTHONPATH": self._python_path, "NOTIFY_SOCKET": str(self.directory / "notify")}
        argv = [sys.executable, "-m", "xenbw.daemon", "--config", str(self.config)]
        self.daemon = self.popen(argv, output=self.log, env=env)
        self.started = self.notified("READY=1")
        # It answers after it has looked at the whole host.
        self.ask("status")

    def notified(self, word: str, timeout: float = busy(15)) -> list[str]:
        """Wait for a message of the daemon to systemd; returns all messages up to it."""
        heard: list[str] = []
        self._notify.settimeout(timeout)
        while word not in heard:
            heard += self._notify.recv(65536).decode().splitlines()
        return heard

    def kill_daemon(self) -> None:
        """Kill the daemon with SIGKILL."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """The daemon is stopped meanwhile, and afterwards gets all events at once."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.daemon.pid, os.WSTOPPED)
        yield
        self.daemon.send_signal(signal.SIGCONT)

    def stop_daemon(self) -> int:
        """Stop the daemon with SIGTERM, as systemctl stop does. Returns its exit status."""
        assert self.daemon is not None
        self.daemon.terminate()
        return self.daemon.wait(timeout=busy(20))

    def xenbw(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line in dom0."""
        env = {"PYTHONPATH": self._python_path, "XENBW_CONFIG": str(self.config)}
        done = self.run([sys.executable, "-m", "xenbw.cli.main", *arguments], env=env)
        assert not check or done.returncode == 0, done
        return done

    def ask(self, op: str) -> dict[str, Any]:
        """Ask the daemon through its socket."""
        return control.ask(self.run_dir, op, timeout=busy(10))

    def ledger(self) -> Ledger:
        """The test's own connection to the ledger."""
        if self._ledger is None:
            self._ledger = Ledger.open(self.ledger_path, create=True)
            self._exit.callback(self._ledger.close)
        return self._ledger

    def add(self, name: str, **values: object) -> None:
        """Give a VM an allowance by writing it into the ledger, without the daemon."""
        ledger, now = self.ledger(), datetime.now(UTC)
        ledger.set_vm(ledger.meet(name, now).id, added_at=now, **values)

    def quiet(self, guest: Guest) -> Counters:
        """Stop all traffic to and from a guest, and return the bytes that it counted in this life."""
        self.namespace.ip(*(f"link set {interface} down" for interface in guest.interfaces.values()))
        total = Counters(0, 0)
        for devid in guest.interfaces:
            total = total.plus(guest.counters(devid))
        return total

    def link_is_up(self, guest: Guest) -> bool:
        """Whether the guest's first interface is up in dom0."""
        return self.run(["ip", "link", "show", "up", "dev", guest.interface]).stdout != ""

    def raise_links(self, *guests: Guest) -> None:
        """Set the guests' interfaces up in dom0, and take the drops by tc from them, as some other program may: then
        only rules hold the guests."""
        names = [name for guest in guests for name in guest.interfaces.values()]
        for interface in names:
            self.undrop(interface)
        self.namespace.ip(*(f"link set {interface} up" for interface in names))

    def drops(self, interface: str) -> bool:
        """Whether xenbw's filter by tc drops all packets of an interface, in both directions."""
        shown = [self.run(["tc", "filter", "show", "dev", interface, way]).stdout for way in ("ingress", "egress")]
        return all("handle 0x7862 direct-action" in one and "bytecode '1,6 0 0 2'" in one for one in shown)

    def hinder_drop(self, interface: str) -> None:
        """Give an interface the qdisc `ingress` in place of clsact, as an admin may for a policer: there is no place
        for xenbw's filter then."""

        def hindered() -> bool:
            self.undrop(interface)
            return self.run(["tc", "qdisc", "add", "dev", interface, "ingress"]).returncode == 0

        # Between the two commands the daemon may put its own back.
        assert until(hindered)

    def undrop(self, interface: str) -> None:
        """Remove clsact from an interface, with all filters, as some other program may."""
        self.run(["tc", "qdisc", "del", "dev", interface, "clsact"])

    def usage(self, name: str) -> Counters:
        """A VM's usage of the present period, after all counted bytes have been written."""
        self.ask("commit")
        ledger = self.ledger()
        vm = ledger.vm_named(name)
        return usagelog.present(ledger).get(vm.id, Counters(0, 0)) if vm else Counters(0, 0)

    def refused(self, name: str) -> Counters:
        """The bytes that a VM sent from its present vifs and that the kernel refused, after all have been written."""
        self.ask("commit")
        ledger = self.ledger()
        vm = ledger.vm_named(name)
        lives = [one.counted for one in ledger.live_bindings().values() if vm and one.vm_id == vm.id]
        return Counters(0, sum(one.refused_out_bytes for one in lives))

    def show(self, name: str) -> dict[str, Any]:
        """`xenbw show NAME --json`."""
        document: dict[str, Any] = json.loads(self.xenbw("show", name, "--json").stdout)
        return document

    def rules(self, version: int = 4) -> list[str]:
        """The legacy filter table as iptables-legacy -S prints it."""
        command = "iptables-legacy" if version == 4 else "ip6tables-legacy"
        return self.run([command, "-S"], check=True).stdout.splitlines()

    def blocked(self, address: str) -> bool:
        """Whether the kernel has the null routes of an address, in the legacy tables or in nft's sets."""
        return (self._legacy and self.in_chain(address)) or self.in_sets(address)

    def in_chain(self, address: str) -> bool:
        """Whether the legacy tables have both null routes of an address."""
        version = 6 if ":" in address else 4
        chain = [rule for rule in self.rules(version) if rule.startswith("-A XENBW")]
        length = 32 if version == 4 else 128
        return all(any(f" {side} {address}/{length} " in rule for rule in chain) for side in ("-s", "-d"))

    def in_sets(self, address: str) -> bool:
        """Whether nft's sets have an address, for dom0 and for bridges."""
        element = f"{{ {address} }}"
        name = "v6" if ":" in address else "v4"
        asked = (["nft", "get", "element", family, "xenbw-null", name, element] for family in ("inet", "bridge"))
        return all(self.run(argv).returncode == 0 for argv in asked)


def run_xenbwd(host: Host) -> subprocess.CompletedProcess[str]:
    """Run a daemon that is expected to end at once."""
    return host.run([sys.executable, "-m", "xenbw.daemon", "--config", str(host.config)], env={"PYTHONPATH": str(REPO)})


def covered(host: Host, interface: str) -> bool:
    """Whether this interface has our counters, not only an earlier one of its name."""
    index = host.run(["cat", f"/sys/class/net/{interface}/ifindex"], check=True).stdout.strip()
    return f".{index}-in {{" in host.run(["nft", "list", "table", "netdev", "xenbw"]).stdout
