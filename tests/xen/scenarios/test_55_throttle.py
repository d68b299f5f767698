"""A guest with the action throttle goes over its allowance: it keeps to its rate, and is blocked at its hard limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig import package, shell
from rig.guest import Guest, Usage
from rig.pace import until
from rig.park import Pair

_MB = 1_000_000
_RATE = 125_000  # bytes per second
_RATE_WORD = "1Mbit"
# At once may pass: a second's worth of the rate, 128 KiB, and the frame that is on its way.
_AT_ONCE = _RATE + 128 * 1024 + 64 * 1024
_DOWNLOAD = "while :; do wget -q -O /dev/null http://10.77.0.2/1M; done"
_UPLOAD = "while :; do dd if=/dev/zero bs=10000 count=1000 | nc 10.77.0.2 9; done"
# What dom0 has sent to the host outside: guests' frames that passed.
_ARRIVED = Path("/sys/class/net/outside/statistics/tx_bytes")


@dataclass(frozen=True)
class Throttled:
    """Bytes per second that web1 downloaded and uploaded in one TCP stream each while it was throttled. used: its usage
    before and after that."""

    download: float
    upload: float
    used: tuple[Usage, Usage]


@pytest.fixture(scope="module", autouse=True)
def throttled(pair: Pair) -> Iterator[Throttled]:
    """web1 downloads more than its allowance has left, goes on downloading, and then sends."""
    web = pair.web
    # A new life: tags of VLAN frames that it got in an earlier scenario are not counted (docs/metering.md).
    web.destroy()
    web.create()
    used = package.usage("web1")
    limit = f"{used.in_bytes + used.out_bytes + _MB}B"
    shell.run("xenbw-addvm", "web1", "--limit", limit, "--action", "throttle", "--rate", _RATE_WORD)
    try:
        downloading = _Traffic(web, _DOWNLOAD)
        assert until(lambda: package.listing()["web1"]["state"] == "throttled")
        before = package.usage("web1")
        download = downloading.rate(lambda: _received(web))
        upload = _Traffic(web, _UPLOAD).rate(_arrived)
        yield Throttled(download, upload, (before, package.usage("web1")))
    finally:
        _stop_traffic(web)
        shell.run("xenbw-addvm", "web1", "--limit", "unlimited", "--action", "block", "--hard-limit", "none")


class _Traffic:
    """A shell command that makes traffic in a guest, until its rate was measured."""

    def __init__(self, guest: Guest, command: str) -> None:
        self._guest = guest
        guest.run(f"echo '{command}' >/tmp/traffic; sh /tmp/traffic >/dev/null 2>&1 &")

    def rate(self, read: Callable[[], tuple[float, int]]) -> float:
        """Bytes per second, once the bytes that may pass at once have passed. read: seconds and bytes so far."""
        _grown(read, 2 * _AT_ONCE)
        before, after = read(), _grown(read, 2 * _MB)
        _stop_traffic(self._guest)
        return (after[1] - before[1]) / (after[0] - before[0])


def _grown(read: Callable[[], tuple[float, int]], by: int) -> tuple[float, int]:
    """Wait until so many more bytes have passed; the last reading."""
    first = read()[1]
    assert until(lambda: read()[1] - first >= by), "the traffic stops"
    return read()


def _received(guest: Guest) -> tuple[float, int]:
    """The guest's own clock, and its own card's counter."""
    words = guest.run("cat /proc/uptime /sys/class/net/eth0/statistics/rx_bytes").output.split()
    return float(words[0]), int(words[2])


def _arrived() -> tuple[float, int]:
    return time.monotonic(), int(_ARRIVED.read_text())


def _stop_traffic(guest: Guest) -> None:
    guest.run("kill $(ps | grep '[/]tmp/traffic' | awk '{ print $1 }'); killall wget nc dd")


def _keeps_to_the_rate(rate: float) -> bool:
    return 0.6 * _RATE <= rate <= 1.15 * _RATE


def test_what_it_downloads_keeps_to_the_rate(throttled: Throttled) -> None:
    assert _keeps_to_the_rate(throttled.download), throttled


def test_what_it_sends_keeps_to_the_rate(throttled: Throttled) -> None:
    assert _keeps_to_the_rate(throttled.upload), throttled


def test_its_usage_goes_on_being_counted(throttled: Throttled, web: Guest) -> None:
    before, after = throttled.used
    assert after.in_bytes - before.in_bytes > 2 * _MB
    assert after.out_bytes - before.out_bytes > 2 * _MB
    # What it sent too fast was refused, and is no usage.
    package.settled(web)


def test_with_the_daemon_dead_and_the_rules_flushed_it_is_throttled_from_its_first_frame(web: Guest) -> None:
    web.destroy()
    package.stop_daemon()
    shell.run("nft", "flush", "ruleset")
    try:
        web.create()
        rate = _Traffic(web, _DOWNLOAD).rate(lambda: _received(web))
        seconds, size = _received(web)
    finally:
        package.start_daemon()
    assert _keeps_to_the_rate(rate), rate
    # Of all since it booted, too.
    assert size <= _AT_ONCE + 1.15 * _RATE * seconds
    assert package.listing()["web1"]["state"] == "throttled"


def test_past_its_hard_limit_it_is_blocked(web: Guest) -> None:
    used = package.usage("web1")
    shell.run("xenbw-addvm", "web1", "--hard-limit", f"{used.in_bytes + used.out_bytes + _MB}B")
    assert package.state("web1") == "throttled"
    assert web.pings("10.77.0.2")
    _Traffic(web, _DOWNLOAD)
    assert until(lambda: package.state("web1") == "over")
    _stop_traffic(web)
    assert web.silent("10.77.0.1", "10.77.0.2", "fd77::2")
