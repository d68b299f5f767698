"""The metrics of a running daemon, beside what the guest's own network card counted."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.support.guest import agree
from tests.support.host import Host
from tests.support.pace import until
from tests.support.promtool import PROGRAM, promtool
from xenbw.model import Counters

pytestmark = pytest.mark.kernel


def metrics(host: Host) -> dict[str, int]:
    """The file, written anew: each series with its value."""
    path = Path(host.directory / "xenbw.prom")
    path.unlink(missing_ok=True)
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGHUP)
    assert until(path.exists, 20)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {series: int(value) for series, _, value in (line.rpartition(" ") for line in lines)}


def of_vif(found: dict[str, int], name: str) -> Counters:
    labels = f'{{vm="{name}",devid="0",kind="vif"}}'
    return Counters(found[f"xenbw_vif_receive_bytes_total{labels}"], found[f"xenbw_vif_transmit_bytes_total{labels}"])


def test_a_vif_s_metrics_are_what_its_guest_counted_and_begin_anew_with_the_guest(running: Host) -> None:
    guest = running.start("web1")
    guest.send(2_000_000)
    guest.receive(3_000_000)
    counted = running.quiet(guest)
    assert until(lambda: agree(of_vif(metrics(running), "web1"), counted))
    before = set(metrics(running))
    guest.reboot()
    guest.send(10_000)
    # A frame that comes between a look at the metrics and one at the guest's card is only in one of them.
    counted = running.quiet(guest)
    assert until(lambda: agree(of_vif(metrics(running), "web1"), counted))
    found = metrics(running)
    # The vif has another name and its domain another number: no series is new.
    assert set(found) == before
    assert of_vif(found, "web1").out_bytes < 100_000


def test_what_a_block_refused_is_shown_and_is_no_usage(running: Host) -> None:
    guest = running.start("web1")
    guest.send(100_000)
    running.xenbw("addvm", "web1", "--limit", "1TB")
    running.xenbw("block", "web1")
    before = metrics(running)
    assert before['xenbw_vm_state{vm="web1",state="blocked"}'] == 1
    running.raise_links(guest)
    guest.send(50_000)
    after = metrics(running)
    refused = 'xenbw_vif_refused_bytes_total{vm="web1",devid="0",kind="vif",direction="out"}'
    used = 'xenbw_vm_usage_bytes_total{vm="web1",direction="out"}'
    assert after[refused] > before[refused]
    assert after[used] == before[used]


def test_the_command_prints_the_same_series_as_the_file(running: Host) -> None:
    running.start("web1")
    printed = running.xenbw("metrics").stdout
    series = set(re.findall(r"(?m)^(?!#)(.*) \S+$", printed))
    assert series == set(metrics(running))
    if PROGRAM:
        assert promtool("check", "metrics", stdin=printed) == (0, "")
