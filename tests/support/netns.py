"""Network namespaces without names: a file descriptor of this process holds them, so they vanish with the process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.support.pace import busy

# linux/sched.h
_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace with loopback up; with `mounts`, it has its own mounts too.

    `mounts` is a sh script that is run once inside; what it mounts nobody outside sees. Addresses are usable at once
    (no duplicate address detection), and what interfaces have to say as they come up (MLD) is soon said. wrapper: the
    program, with its first arguments, that starts each command.
    """

    def __init__(self, mounts: str | None = None) -> None:
        self._net = -1
        self._mounts: int | None = None
        self._root = -1
        self._children: list[subprocess.Popen[bytes]] = []
        self.wrapper: tuple[str, ...] = ()
        _in_thread(lambda: self._create(mounts))

    def _create(self, mounts: str | None) -> None:
        _check(_libc.unshare(_CLONE_NEWNET))
        self._net = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        for which in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{which}/accept_dad").write_text("0")
            Path(f"/proc/sys/net/ipv6/conf/{which}/mldv2_unsolicited_report_interval").write_text("1")
            # Linux asks for routers some seconds after a card is up, in the midst of a measurement.
            Path(f"/proc/sys/net/ipv6/conf/{which}/router_solicitations").write_text("0")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        if mounts is not None:
            _check(_libc.unshare(_CLONE_NEWNS))
            subprocess.run(["sh", "-euc", "mount --make-rprivate /\n" + mounts], check=True)
            self._mounts = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            # In a chroot the root of the mounts is not our root; this is ours, among the new mounts.
            self._root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    @property
    def path(self) -> str:
        """The namespace's path, as an argument of `ip link … netns`."""
        return f"/proc/{os.getpid()}/fd/{self._net}"

    @property
    def root(self) -> Path:
        """The namespace's own file tree, with its mounts, as a path from outside."""
        return Path(f"/proc/{os.getpid()}/fd/{self._root}")

    @property
    def inode(self) -> int:
        """The number that /proc/PID/ns/net shows for processes in this namespace."""
        return os.fstat(self._net).st_ino

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Put this thread into the namespace's network (not its mounts): sockets and children made here belong
        there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self._net, _CLONE_NEWNET))
            yield
        finally:
            _check(_libc.setns(home, _CLONE_NEWNET))
            os.close(home)

    def run(
        self,
        argv: Sequence[str],
        *,
        text_input: str = "",
        env: Mapping[str, str] | None = None,
        timeout: float = busy(30),
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace, with its mounts if it has any, in the caller's working directory."""
        with self.entered():
            return subprocess.run(
                self._command(argv),
                input=text_input,
                env=env,
                timeout=timeout,
                check=check,
                capture_output=True,
                text=True,
                errors="backslashreplace",
            )

    def popen(
        self, argv: Sequence[str], *, output: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command in the namespace; stdout and stderr are appended to `output`. It ends with `close`."""
        with self.entered(), output.open("ab") as log:
            process = subprocess.Popen(
                self._command(argv), env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._children.append(process)
        return process

    def ip(self, *commands: str) -> None:
        """Run ip(8) commands in one process."""
        self.run(["ip", "-batch", "-"], text_input="\n".join(commands), check=True)

    def lose_ipv6(self) -> None:
        """Disable IPv6 on all interfaces: neighbours say of themselves what no test asked for."""
        with self.entered():
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")

    def pids(self) -> list[int]:
        """The processes in the namespace, other than this one."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if (process / "ns/net").stat().st_ino == self.inode and int(process.name) != os.getpid():
                    found.append(int(process.name))
        return found

    def close(self) -> None:
        """End the processes in the namespace and release it."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for child in self._children:
            child.wait()
        os.close(self._net)
        if self._mounts is not None:
            os.close(self._mounts)
            os.close(self._root)

    def _command(self, argv: Sequence[str]) -> list[str]:
        if self._mounts is None:
            return [*self.wrapper, *argv]
        # Entering the mounts moves a process to "/".
        held = f"/proc/{os.getpid()}/fd"
        enter = ["nsenter", f"--mount={held}/{self._mounts}", f"--root={held}/{self._root}"]
        return [*enter, "--", "env", f"--chdir={Path.cwd()}", "--", *self.wrapper, *argv]


def _in_thread(work: Callable[[], None]) -> None:
    """Do `work` in a thread of its own: a thread may change namespaces without moving the process."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except (OSError, subprocess.SubprocessError) as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _check(status: int) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
