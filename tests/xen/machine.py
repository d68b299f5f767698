"""The emulated machine: QEMU with a real Xen and a Debian dom0, given commands over a shared directory."""

from __future__ import annotations

import re
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

# A CPU model of QEMU 7.2 without AVX, and FPU state that Xen switches at once ("eager-fpu"). With `-cpu max` and only
# spec-ctrl=no, which makes Xen switch FPU state lazily, dom0's programs crashed now and then (seen: general protection
# faults in Python, a SystemError from its parser).
_CPU = "Nehalem"
_XEN_ARGUMENTS = (
    "console=com1 com1=115200,8n1 dom0_mem=1536M,max:1536M dom0_max_vcpus=1 spec-ctrl=no,eager-fpu xpti=no noreboot=yes"
)
_DOM0_ARGUMENTS = "root=/dev/vda rw console=hvc0 mitigations=off net.ifnames=0 quiet loglevel=3"

# Messages on the serial console after which the machine is dead.
_DEATHS = (b"Panic on CPU", b"Kernel panic", b"Hardware Dom0 crashed", b"Hardware Dom0 halted")


class MachineError(Exception):
    """The machine did not come up, died, or ran out of time."""


class EmulatorError(MachineError):
    """A kernel on the machine died, dom0's or a guest's, after QEMU had computed what no processor can."""


class Machine:
    """The booted image, on an overlay that is deleted at the context's end.

    `shared` is dom0's /rig. All waits end with MachineError `seconds` after the start, or once `stop` is set. name: if
    several machines print, each line of output begins with the name and is printed as a whole.
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
        """The id of dom0's present boot; "" before the first."""
        try:
            return (self.shared / "out" / "boot").read_text().strip()
        except FileNotFoundError:
            return ""

    def wait_until_up(self, after: str = "") -> None:
        """Wait until dom0 accepts commands, in another boot than `after`."""
        while self.boot in ("", after):
            self._wait()

    def run(self, argv: Sequence[str]) -> int:
        """Run a command in dom0, in the scenarios' directory, with its output printed here; returns its status."""
        return self.run_script(shlex.join(argv))

    def run_script(self, script: str) -> int:
        """Run a bash script like `run`."""
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
        """Print the machine's output."""
        lines = news.splitlines(keepends=True)
        sys.stdout.buffer.write(b"".join(f"{self._name}{' ' if self._name else ''}".encode() + line for line in lines))
        sys.stdout.flush()

    def reboot(self) -> None:
        """Reboot dom0 in an orderly way, as an admin does."""
        before = self.boot
        self._give("systemctl reboot")
        self.wait_until_up(after=before)

    def _give(self, script: str) -> int:
        """Leave a script for dom0's agent, which runs each script once, in the order of their numbers."""
        self._commands += 1
        draft = self.shared / "in" / "draft"
        draft.write_text(f"cd /rig/scenarios\n{script}\n")
        draft.rename(self.shared / "in" / f"{self._commands}.sh")
        return self._commands

    def last_words(self) -> str:
        """The end of the serial console's output, where Xen and Linux tell why they died."""
        return self._console()[-8000:].decode(errors="replace")

    def _console(self) -> bytes:
        try:
            return self._serial.read_bytes()
        except FileNotFoundError:
            return b""

    def _wait(self) -> None:
        time.sleep(_POLL)
        if self._qemu.poll() is not None:
            raise MachineError(f"QEMU ended with status {self._qemu.returncode}")
        if self._stop.is_set():
            raise MachineError("stopped")
        if time.monotonic() > self._deadline:
            raise MachineError("out of time")
        console = self._console()
        if any(death in console for death in _DEATHS):
            if impossible_flags(console):
                raise EmulatorError("dom0's kernel died with flags that no processor has: the emulator computed them")
            raise MachineError("Xen or dom0's kernel died")


def impossible_flags(console: bytes) -> bool:
    """Whether Linux printed an EFLAGS on the console in which a bit of 22 to 31 is set. They are reserved and always 0
    (Intel SDM, volume 1, 3.4.3): QEMU 7.2 lost track of the flags, and the next branch may have gone the wrong way."""
    return any(int(flags, 16) >> 22 for flags in re.findall(rb"EFLAGS: ([0-9a-f]{8})\b", console))


def image(suite: str) -> Path:
    """The image of a machine with that Debian (bookworm, trixie), built now if its inputs have changed."""
    built = subprocess.run([_HERE / "image", suite], stdout=subprocess.PIPE, text=True, check=True)
    return Path(built.stdout.strip())
