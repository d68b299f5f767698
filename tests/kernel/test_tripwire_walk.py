"""Whatever happens to a VM, the kernel's tripwire and the ledger have the same bytes left of its allowance at rest."""

from __future__ import annotations

import random
from collections.abc import Callable
from zoneinfo import ZoneInfo

import pytest

from tests.support.effort import cases
from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until
from xenbw.nft.netlink import Table
from xenbw.nft.nft import TABLE
from xenbw.nft.objects import Quota
from xenbw.quota import FRAME, lifted, period_at

pytestmark = pytest.mark.kernel

# 2,000 steps take 7 minutes on a busy machine; the walks go at the same time.
WALKS, STEPS = cases(2, 5), cases(20, 2_000)
_MB = 1_000_000
_START = 50 * _MB


class Walk:
    """One VM and its daemon, to which random things happen."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host, self.random = host, random.Random(seed)
        self.guest: Guest = host.start("web1")
        self.limit = _START
        host.add("web1", limit_bytes=self.limit)
        self.alive = True
        self.days = 0

    def step(self) -> str:
        """One thing that happens; its name."""
        able: list[Callable[[], object]] = [self.send, self.receive, self.reboot, self.flush]
        able += [self.raise_limit, self.lower_limit, self.kill] if self.alive else [self.start]
        able += [self.lift, self.new_period] if self.alive else []
        chosen = self.random.choice(able)
        chosen()
        return chosen.__name__

    def send(self) -> None:
        self.guest.send(self.random.randrange(1, _MB // 2))

    def receive(self) -> None:
        self.guest.receive(self.random.randrange(1, _MB // 2))

    def reboot(self) -> None:
        self.guest.reboot()

    def flush(self) -> None:
        self.host.run(["nft", "flush", "ruleset"], check=True)

    def raise_limit(self) -> None:
        self._limit(self.limit + self.random.randrange(2 * FRAME, 10 * _MB))

    def lower_limit(self) -> None:
        self._limit(max(FRAME, self.limit - self.random.randrange(FRAME, 10 * _MB)))

    def _limit(self, limit: int) -> None:
        self.limit = limit
        self.host.add("web1", limit_bytes=limit)

    def lift(self) -> None:
        self.host.xenbw("lift", "web1", check=False)

    def new_period(self) -> None:
        self.days = self.days % 28 + 1
        self.host.add("web1", reset_day=self.days)

    def kill(self) -> None:
        self.host.kill_daemon()
        self.alive = False

    def start(self) -> None:
        self.host.start_daemon()
        self.alive = True

    def apart(self) -> int | None:
        """How many bytes more the kernel has left than the ledger; None if it holds no tripwire though it should."""
        self.host.ask("sync")
        used, quota = sum(self.host.usage("web1")), self._quota()
        vm = self.host.ledger().vm_named("web1")
        assert vm is not None
        assert vm.period_start is not None
        # A lift ends with its period, which another reset day may have ended early.
        if lifted(vm, period_at(vm.period_start, vm.reset_day or 1, ZoneInfo("UTC"))):
            return 0 if quota is None else None
        if quota is None:
            return None
        # Past its allowance, as after a lowered limit, the VM has nothing left.
        left = max(0, self.limit - used)
        if quota.left == 0 and left < FRAME:
            return 0  # it used up all that it could
        return quota.left - left

    def _quota(self) -> Quota | None:
        table = Table(TABLE)
        with self.host.namespace.entered():
            try:
                return table.quotas().get("trip-total-1")
            finally:
                table.close()


@pytest.mark.parametrize("seed", range(1, WALKS + 1))
def test_the_kernel_and_the_ledger_have_the_same_left_at_rest(running: Host, seed: int) -> None:
    walk, steps = Walk(running, seed), list[str]()
    for _ in range(STEPS):
        steps.append(walk.step())
        if walk.alive:
            assert until(lambda: walk.apart() == 0, 10), (len(steps), steps[-20:], walk.apart())
