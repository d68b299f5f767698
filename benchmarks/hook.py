"""How long a VM's boot waits for the hook, beside the vif-bridge run that calls it, on a host of 1000 running VMs."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.figure import Figure, milliseconds
from benchmarks.rig import PYTHON, Rig, vm_name
from tests.support.host import REPO

_STARTS = 15
_BLOCKED = 20
_STAMP = 'echo "$EPOCHREALTIME" >> {path}\n'


@dataclass
class _Boots:
    """Seconds for each start of a guest: in the hook, and in vif-bridge without the hook."""

    hook: list[float] = field(default_factory=list)
    script: list[float] = field(default_factory=list)


def measure() -> list[Figure]:
    with _Stopwatch() as rig:
        rig.grow(1000)
        for n in range(_BLOCKED):
            rig.block(vm_name(n + 1))
        rig.start_daemon()
        good = rig.boots("good")
        rig.block("over")
        over = rig.boots("over")
        rig.hook_env["XENBW_HOOK"] = "/bin/true"
        shell = rig.boots("shell")
    vif_bridge = milliseconds(good.script + over.script + shell.script)
    peer = ("vif-bridge itself", vif_bridge)
    return [
        Figure("hook, VM in good standing", milliseconds(good.hook), "ms", 0.7 * vif_bridge, peer),
        Figure("hook, VM that is over", milliseconds(over.hook), "ms", vif_bridge, peer),
        Figure("  its shell part, with timeout(1)", milliseconds(shell.hook), "ms", None, peer),
        Figure("  a bare start of Python", _python("pass"), "ms", None, peer),
        Figure("  the same with the hook's imports", _python("import xenbw.hook.call"), "ms", None, peer),
    ]


class _Stopwatch(Rig):
    """A rig whose vif scripts note the time before and after xenbw's hook: hooks run in the order of their names."""

    def _install(self) -> None:
        super()._install()
        self._stamps = self.directory / "stamps"
        for name in ("before-xenbw.hook", "zz-after-xenbw.hook"):
            hook = self.etc / "scripts" / "vif-post.d" / name
            hook.write_text(_STAMP.format(path=self._stamps))
            hook.chmod(0o755)

    def boots(self, name: str) -> _Boots:
        """Start a guest of that name several times."""
        boots, entering = _Boots(), self._entering()
        guest = self.start(name)
        for _ in range(_STARTS):
            guest.stop()
            self._stamps.unlink()
            guest.start()
            before, after = (float(line) for line in self._stamps.read_text().splitlines())
            boots.hook.append(after - before)
            boots.script.append(guest.scripts[-1].seconds - entering - (after - before))
        guest.stop()
        return boots

    def _entering(self) -> float:
        """Seconds to start any program in the rig, a cost that scripts on a real dom0 do not have."""
        return statistics.median(_timed(lambda: self.namespace.run(["true"], check=True)))


def _python(code: str) -> float:
    """The median time in milliseconds of a Python that starts like the hook and runs this code."""
    argv = [PYTHON, "-IS", "-c", f"import sys; sys.path.append({str(REPO)!r}); {code}"]
    return milliseconds(_timed(lambda: subprocess.run(argv, check=True)))


def _timed(call: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(_STARTS):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return seconds
