"""The emulated machine: QEMU with a real Xen and a Debian dom0, given commands over a shared directory."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Self

_HERE = Path(__file__).parent
_POLL = 0.2

# Of the CPUs that QEMU 7.2 emulates one without AVX, and FPU state that is switched at once ("eager-fpu"). With `-cpu
# max` and spec-ctrl=no alone, which makes Xen switch it lazily, dom0's programs crashed now and then (seen: general
# protection faults in Python, a SystemError from its parser).
_CPU = "Nehalem"
_XEN_ARGUMENTS = (
    "console=com1 com1=115200,8n1 dom0_mem=1536M,max:1536M dom0_max_vcpus=1 spec-ctrl=no,eager-fpu xpti=no noreboot=yes"
)
_DOM0_ARGUMENTS = "root=/dev/vda rw console=hvc0 mitigations=off net.ifnames=0 quiet loglevel=3"

# What the serial console says when nothing more will come.
_DEATHS = (b"Panic on CPU", b"Kernel panic", b"Hardware Dom0 crashed", b"Hardware Dom0 halted")


class MachineError(Exception):
    """The machine did not come up, died, or ran out of time."""


class Machine:
    """A boot of the image on an overlay that is gone with the context.

    `shared` is dom0's /rig. All waits end at `seconds` from the start, and once `stop` is set, with MachineError. name:
    what its lines of output begin with, where several machines talk; they are printed when they are whole then.
    """

    def __init__(self, image: Path, seconds: float, stop: Event, name: str = "") -> None:
        self._deadline, self._stop = time.monotonic() + seconds, stop
        self._name = name
        self._image = image
        self._commands = 0
        self._directory = Path(tempfile.mkdtemp(prefix="xenbw-xen-", dir="/var/tmp"))
        self._serial = self._directory / "serial.log"
        self.shared = self._directory / "rig"
        for way in ("in", "out"):
            (self.shared / way).mkdir(parents=True)

    def __enter__(self) -> Self:
        disk = self._directory / "disk.qcow2"
        backing = ["-b", str(self._image / "dom0.img"), "-F", "raw"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(disk)], check=True)
        self._qemu = subprocess.Popen(self._command_line(disk), stdin=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self._qemu.kill()
        self._qemu.wait()
        shutil.rmtree(self._directory)

    def _command_line(self, disk: Path) -> list[str]:
        image = self._image
        return [
            "qemu-system-x86_64",
            *("-accel", "tcg,tb-size=512"),
            *("-machine", "q35", "-cpu", _CPU, "-smp", "1", "-m", "3G"),
            *("-nodefaults", "-display", "none", "-serial", f"file:{self._serial}"),
            *("-kernel", str(image / "xen"), "-append", _XEN_ARGUMENTS),
            *("-initrd", f"{image / 'vmlinuz'} {_DOM0_ARGUMENTS},{image / 'initrd.img'}"),
            *("-drive", f"if=none,id=disk,file={disk},format=qcow2,cache=unsafe"),
            *("-device", "virtio-blk-pci,drive=disk"),
            *("-virtfs", f"local,path={self.shared},mount_tag=rig,security_model=none"),
        ]

    @property
    def boot(self) -> str:
        """Which boot of dom0 is up; "" before the first."""
        try:
            return (self.shared / "out" / "boot").read_text().strip()
        except FileNotFoundError:
            return ""

    def wait_until_up(self, after: str = "") -> None:
        """Until dom0 takes commands, in another boot than `after`."""
        while self.boot in ("", after):
            self._wait()

    def run(self, argv: Sequence[str]) -> int:
        """Run a command in dom0, in the scenarios' directory, with its output on ours; returns its status."""
        return self.run_script(shlex.join(argv))

    def run_script(self, script: str) -> int:
        """The same for a bash script."""
        number = self._give(script)
        log, status = self.shared / "out" / f"{number}.log", self.shared / "out" / f"{number}.rc"
        shown = 0
        while True:
            done = status.exists()
            if log.exists():
                with log.open("rb") as file:
                    file.seek(shown)
                    news = file.read()
                if self._name and not done:
                    news = news[: news.rfind(b"\n") + 1]
                shown += len(news)
                self.say(news)
            if done:
                return int(status.read_text())
            self._wait()

    def say(self, news: bytes) -> None:
        """Print what it says."""
        lines = news.splitlines(keepends=True)
        sys.stdout.buffer.write(b"".join(f"{self._name}{' ' if self._name else ''}".encode() + line for line in lines))
        sys.stdout.flush()

    def reboot(self) -> None:
        """An orderly reboot of dom0, as an admin does it."""
        before = self.boot
        self._give("systemctl reboot")
        self.wait_until_up(after=before)

    def _give(self, script: str) -> int:
        """Leave a script for dom0's agent, which runs each once, in the order of their numbers."""
        self._commands += 1
        draft = self.shared / "in" / "draft"
        draft.write_text(f"cd /rig/scenarios\n{script}\n")
        draft.rename(self.shared / "in" / f"{self._commands}.sh")
        return self._commands

    def last_words(self) -> str:
        """The end of the serial console, where Xen and Linux tell why they died."""
        try:
            return self._serial.read_bytes()[-4000:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _wait(self) -> None:
        time.sleep(_POLL)
        if self._qemu.poll() is not None:
            raise MachineError(f"QEMU ended with status {self._qemu.returncode}")
        if self._stop.is_set():
            raise MachineError("stopped")
        if time.monotonic() > self._deadline:
            raise MachineError("out of time")
        if self._serial.exists() and any(death in self._serial.read_bytes() for death in _DEATHS):
            raise MachineError("Xen or dom0's kernel died")


def image() -> Path:
    """The machine's image, built now if its inputs have changed."""
    built = subprocess.run([_HERE / "image"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip())
