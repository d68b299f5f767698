"""A genuine mongod, to be killed, hung, wiped and made to fail: what a shared database does to its clients.

`tools/setup mongo` brings the program. Servers listen on 127.0.0.1 only and end with this process, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pymongo import MongoClient

from tests.support.mongoaccess import ADMIN, KEEPER, OPEN, Access, connect
from tests.support.smalldisk import SmallDisk

_MONGOD = Path(__file__).resolve().parents[2] / ".venv/mongod/fiftyone/db/bin/mongod"
_OPTIONS = ["--bind_ip", "127.0.0.1", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
_OPTIONS += ["--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=16MB)"]
_PARAMETERS = {
    "enableTestCommands": "1",  # configureFailPoint
    "ttlMonitorSleepSecs": "1",
    "diagnosticDataCollectionEnabled": "false",
    # A primary that is stopped waits this long for a successor; the default is 15 s.
    "shutdownTimeoutMillisForSignaledShutdown": "100",
}
# Below Linux's ephemeral ports (32768 and up), where a client that connects to a dead server's port may be given that
# very port as its own and so reach itself.
_PORTS = range(20000, 32768)


class MongodError(Exception):
    """A mongod did not start; the message says why."""


class Mongod:
    """One server on one port, with a disk of its own: standalone, or a member of `replica_set`.

    `with Mongod() as server` starts it. Its data stay over `kill`, `stop` and `start`, its log is `log`. Start it from
    a thread that lives on: the kernel ends it with that thread. `untouched` is whether it still runs as it was
    started, so that another test can have it after `renew`.

    It has more than twenty methods: one for each thing that is done to a server.
    """

    def __init__(self, access: Access = OPEN, *, replica_set: str | None = None, disk: SmallDisk | None = None) -> None:
        self._access = access
        self._replica_set = replica_set
        self._exit = contextlib.ExitStack()  # closes clients first: closing one on a dead server takes seconds
        self._directory = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="xenbw-mongod-")))
        self.log = self._directory / "log"
        self._data = (disk.path if disk else self._directory) / "db"
        self._data.mkdir()
        port, held = _take_port()
        self._exit.enter_context(held)
        self.host = f"127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._exit.callback(self.kill)
        self._clients = self._exit.enter_context(contextlib.ExitStack())
        self._new = self.untouched = True

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def uri(self) -> str:
        """The value of [mongodb] uri: this server alone, as KEEPER if it asks for a login."""
        return self._access.uri([self.host], KEEPER, directConnection="true")

    @property
    def running(self) -> bool:
        """Whether its process exists, even if it hangs."""
        return self._process is not None and self._process.poll() is None

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """A client with the rights of `uri`; closed with the server. `options` are MongoClient's."""
        return self._connect(self.uri, options)

    def admin(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """A client that may do everything; it is closed with the server. `options` are MongoClient's."""
        return self._connect(self._access.uri([self.host], ADMIN, directConnection="true"), options)

    def start(self) -> None:
        """Start it on its present data, and wait until it answers (not for an election); raises MongodError."""
        self.launch()
        self.await_ready()
        if self._new and not self._replica_set:
            self._access.create_users(self.host)
        self._new = False

    def launch(self) -> None:
        """Start it without waiting."""
        argv = [str(_MONGOD), *_OPTIONS, "--port", self.host.partition(":")[2], "--dbpath", str(self._data)]
        for name, value in _PARAMETERS.items():
            argv += ["--setParameter", f"{name}={value}"]
        if self._replica_set:
            argv += ["--replSet", self._replica_set, "--oplogSize", "64"]
        if not _MONGOD.exists():
            raise MongodError("no mongod here; first run: tools/setup mongo")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *argv, *self._access.server_options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def await_ready(self, seconds: float = 30) -> None:
        """Wait until it accepts connections, which a mongod does last; raises MongodError."""
        limit = time.monotonic() + seconds
        while not self._listens():
            if not self.running or time.monotonic() > limit:
                raise MongodError(f"mongod at {self.host} did not start: {self._last_words()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it with SIGKILL, unless it is dead already."""
        self.untouched = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """Stop it with SIGTERM, as systemctl stop does, even if it hangs. Returns its exit status."""
        assert self._process is not None
        self.untouched = False
        self._process.terminate()
        self.resume()
        return self._process.wait(timeout=30)

    def hang(self) -> None:
        """Make it hang: it keeps its connections and accepts new ones (the kernel does), but answers nothing."""
        assert self._process is not None
        self.untouched = False
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)  # all its threads, not only the first

    def resume(self) -> None:
        """Let a hung mongod go on; does nothing if it does not hang."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def clear(self) -> None:
        """Kill it and empty its disk."""
        self.kill()
        shutil.rmtree(self._data)
        self._data.mkdir()
        self._new = True

    def wipe(self) -> None:
        """Come back with an empty disk; KEEPER may log in again. A member of a set gets its data from the others."""
        self.clear()
        self.start()

    def fail(
        self,
        *commands: str,
        times: int | None = None,
        mode: str | Mapping[str, object] = "alwaysOn",
        **data: object,
    ) -> None:
        """Make commands ("update", "find" …) fail, `times` times or until `heal`; replaces what was set before.

        `data` is the fail point failCommand's: errorCode=50 (one that means "not primary" or "shutting down" makes a
        client forget the server, pymongo 3.11 for up to 10 s); closeConnection=True;
        writeConcernError={"code": 64, "errmsg": "…"} (the write is done, then the error reported);
        blockConnection=True, blockTimeMS=500; appName="…" for one client only. `mode` is configureFailPoint's, such as
        {"skip": 2} or {"activationProbability": 0.1}.
        """
        self.untouched = False
        when = mode if times is None else {"times": times}
        self._fail_point(mode=when, data={"failCommands": list(commands), **data})

    def heal(self) -> None:
        """Undo `fail`."""
        self._fail_point(mode="off")

    def renew(self) -> None:
        """Close its clients and drop every database but its own, so that it is as after its start."""
        self._clients.close()
        with connect(self._access.uri([self.host], ADMIN, directConnection="true")) as client:
            for name in set(client.list_database_names()) - {"admin", "config", "local"}:
                client.drop_database(name)

    def close(self) -> None:
        """End it and delete its data."""
        self.resume()
        self._exit.close()

    def _fail_point(self, **options: Any) -> None:
        with connect(self._access.uri([self.host], ADMIN, directConnection="true")) as client:
            client.admin.command("configureFailPoint", "failCommand", **options)

    def _connect(self, uri: str, options: Mapping[str, Any]) -> MongoClient[dict[str, Any]]:
        client = connect(uri, **{"serverSelectionTimeoutMS": 2000, **options})
        self._clients.callback(client.close)
        return client

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        grave = [line for line in lines if '"s":"E"' in line or '"s":"F"' in line]
        return "\n".join((grave or lines)[-5:])

    def _listens(self) -> bool:
        name, _, port = self.host.partition(":")
        try:
            socket.create_connection((name, int(port)), timeout=1).close()
        except OSError:
            return False
        return True


def _take_port() -> tuple[int, socket.socket]:
    """A free port, and an open socket that keeps it from every other caller, but not from a mongod.

    Without it two servers that start at the same moment, or one that starts while the owner of its port is dead, could
    have the same port; the later one ends, and its tests talk to the other's server.
    """
    for port in random.sample(_PORTS, 100):
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            holder.close()
            continue
        # Linux lets a second socket have the address if both ask for it and neither listens; mongod asks.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return port, holder
    raise MongodError("no free port")
