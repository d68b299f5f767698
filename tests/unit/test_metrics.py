"""The metrics: as Prometheus reads them, and as `xenbw metrics` prints them."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

from tests.support import manpage
from tests.support.console import Console, StandIn
from tests.support.promtool import promtool
from tests.support.samples import NOW, PERIOD, entry, everything, names, needs_promtool, parse, sample
from xenbw.ledger.unmetered import Unmetered
from xenbw.model import Amounts, Counters, Kind, State
from xenbw.report.metrics import VifSample, text

HOSTILE = 'e"vil\\\n# EOF\nxenbw_up 0\r\x1b[2J\u202e{}",state="ok"} 9'


# the text


def test_a_vm_has_its_usage_its_allowance_and_its_state() -> None:
    found = parse(text(everything()))
    vm = 'vm="web1"'
    assert {series: value for series, value in found.items() if series[0].startswith("xenbw_vm_") and value} == {
        ("xenbw_vm_usage_bytes_total", f'{vm},direction="in"'): 400,
        ("xenbw_vm_usage_bytes_total", f'{vm},direction="out"'): 450,
        ("xenbw_vm_used_bytes", vm): 850,
        ("xenbw_vm_allowance_bytes", vm): 1000,
        ("xenbw_vm_hard_limit_bytes", vm): 2000,
        ("xenbw_vm_forecast_timestamp_seconds", vm): PERIOD.end.timestamp() - 60,
        ("xenbw_vm_period_start_timestamp_seconds", vm): PERIOD.start.timestamp(),
        ("xenbw_vm_period_end_timestamp_seconds", vm): PERIOD.end.timestamp(),
        ("xenbw_vm_state", f'{vm},state="warned"'): 1,
    }
    assert sum(name == "xenbw_vm_state" for name, _ in found) == len(State)


def test_a_vif_is_shown_as_its_guest_sees_it() -> None:
    found = parse(text(everything()))
    vif = 'vm="web1",devid="0",kind="vif"'
    assert {series: value for series, value in found.items() if series[0].startswith("xenbw_vif_")} == {
        ("xenbw_vif_receive_bytes_total", vif): 1,
        ("xenbw_vif_transmit_bytes_total", vif): 2,
        ("xenbw_vif_flood_bytes_total", vif): 3,
        ("xenbw_vif_refused_bytes_total", f'{vif},direction="in"'): 4,
        ("xenbw_vif_refused_bytes_total", f'{vif},direction="out"'): 5,
    }


def test_the_daemon_s_health_is_shown() -> None:
    found = parse(text(everything()))
    shown = {name: value for (name, labels), value in found.items() if not labels}
    assert shown == {
        "xenbw_up": 1,
        "xenbw_timestamp_seconds": NOW.timestamp(),
        "xenbw_start_time_seconds": (NOW - timedelta(hours=1)).timestamp(),
        "xenbw_last_commit_timestamp_seconds": (NOW - timedelta(seconds=5)).timestamp(),
        "xenbw_meter_gaps_total": 2,
        "xenbw_meter_degraded": 1,
        "xenbw_vifs": 3,
        "xenbw_vifs_pending": 1,
        "xenbw_null_routes": 4,
        "xenbw_problems": 2,
        "xenbw_clock_trusted": 1,
        "xenbw_book_backlog_records": 7,
        "xenbw_book_current_timestamp_seconds": (NOW - timedelta(minutes=2)).timestamp(),
    }
    assert found["xenbw_meter_info", 'meter="kernel"'] == 1
    assert found["xenbw_messages_waiting", 'channel="mail"'] == 3


def test_without_a_daemon_up_is_0_and_its_other_metrics_are_absent() -> None:
    found = parse(text(replace(everything(), status=None)))
    assert found["xenbw_up", ""] == 0
    assert "xenbw_problems" not in names(text(replace(everything(), status=None)))


def test_a_vm_without_a_limit_has_no_metric_for_it() -> None:
    assert "xenbw_vm_allowance_bytes" not in names(text(sample(entry(1, "web1", None))))


def test_usage_on_other_hosts_is_used_but_not_counted_here() -> None:
    there = replace(entry(1, "web1"), elsewhere=Counters(100, 0))
    found = parse(text(sample(there, here={1: Counters(5, 0)})))
    assert found["xenbw_vm_used_bytes", 'vm="web1"'] == 105
    assert found["xenbw_vm_usage_bytes_total", 'vm="web1",direction="in"'] == 5


def test_a_vm_whose_traffic_this_dom0_does_not_see_is_unmetered() -> None:
    found = parse(text(sample(entry(1, "web1"), unseen={1: Unmetered(True, "passthrough")})))
    assert found["xenbw_vm_state", 'vm="web1",state="unmetered"'] == 1


def test_every_byte_of_a_large_number_is_shown() -> None:
    used = 2**62 + 1
    assert f'direction="in"}} {used}\n' in text(sample(entry(1, "web1"), here={1: Counters(used, 0)}))


# bounded labels


def test_a_vif_keeps_its_labels_when_its_vm_restarts_and_shows_the_newer_domain_meanwhile() -> None:
    vifs = [VifSample(1, domid, 0, Kind.VIF, Amounts(domid, 0)) for domid in (1, 300, 7)]
    found = parse(text(sample(entry(1, "web1"), vifs=vifs)))
    assert [value for (name, _), value in found.items() if name == "xenbw_vif_receive_bytes_total"] == [300]


def test_the_two_interfaces_of_an_hvm_guest_are_kept_apart() -> None:
    vifs = [VifSample(1, 7, 0, Kind.VIF, Amounts(1, 0)), VifSample(1, 7, 0, Kind.EMU, Amounts(2, 0))]
    found = parse(text(sample(entry(1, "web1"), vifs=vifs)))
    assert found["xenbw_vif_receive_bytes_total", 'vm="web1",devid="0",kind="emu"'] == 2
    assert found["xenbw_vif_receive_bytes_total", 'vm="web1",devid="0",kind="vif"'] == 1


def test_a_vm_that_nobody_added_is_shown_only_while_it_runs_or_has_used_something() -> None:
    strays = [entry(n, f"ci-{n}", added_at=None) for n in (1, 2, 3, 4)]
    vifs = [VifSample(2, 7, 0, Kind.VIF, Amounts(0, 0))]
    shown = text(sample(*strays, here={3: Counters(1, 0)}, vifs=vifs, unseen={4: Unmetered(False, "a NIC")}))
    assert set(re.findall(r'vm="([^"]+)"', shown)) == {"ci-2", "ci-3", "ci-4"}


# hostile names


def test_a_hostile_name_stays_inside_its_label_and_moves_no_cursor() -> None:
    metrics = text(sample(entry(1, HOSTILE), entry(2, "web2")))
    found = parse(metrics)
    assert found["xenbw_up", ""] == 0
    assert metrics.replace("\n", "").isprintable()
    assert {labels.count('vm="') for name, labels in found if name == "xenbw_vm_used_bytes"} == {1}
    assert r'vm="e\"vil\\\\n# EOF\\nxenbw_up 0\\r\\x1b[2J\\u202e{}\",state=\"ok\"} 9"' in metrics


def test_two_names_that_look_the_same_do_not_make_a_series_twice() -> None:
    parse(text(sample(entry(1, "a\x1b"), entry(2, r"a\x1b"))))


@needs_promtool
def test_prometheus_reads_the_metrics_and_finds_no_fault() -> None:
    assert promtool("check", "metrics", stdin=text(everything())) == (0, "")
    hostile = text(sample(entry(1, HOSTILE), entry(2, "caf\u00e9 \U0001f600"), entry(3, "a\0b")))
    assert promtool("check", "metrics", stdin=hostile) == (0, "")


@needs_promtool
def test_promtool_would_find_a_fault() -> None:
    assert promtool("check", "metrics", stdin=text(everything()).replace("_total", "_totals"))[0] != 0


# the command


def test_the_command_prints_what_the_ledger_and_the_daemon_say(console: Console, daemon: StandIn) -> None:
    console.run("addvm", "web1", "--limit", "500GB")
    console.runs("web1", "vif7.0")
    console.uses("web1", 300, 117)
    daemon.problems.append("a problem")
    found = parse(console.done("metrics"))
    assert daemon.asked[-2:] == ["commit", "status"]
    assert found["xenbw_vm_usage_bytes_total", 'vm="web1",direction="out"'] == 117
    assert found["xenbw_vif_receive_bytes_total", 'vm="web1",devid="0",kind="vif"'] == 0
    assert found["xenbw_problems", ""] == 1
    assert found["xenbw_messages_waiting", 'channel="mail"'] == 0


def test_without_a_daemon_the_command_prints_the_ledger_s_numbers_and_says_so(console: Console) -> None:
    console.run("addvm", "web1", "--limit", "500GB")
    done = console.run("metrics")
    assert parse(done.stdout)["xenbw_up", ""] == 0
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "these numbers are as of its last commit" in done.stderr


def test_the_metrics_of_the_manual_page_are_those_that_there_are() -> None:
    (example,) = manpage.examples(manpage.parts(manpage.read("xenbw.1"), "SH")["METRICS"])
    assert names(example) == names(text(everything()))
    series = {(name, re.sub(r'"[^"]*"', "", labels)) for name, labels in parse(example)}
    assert series <= {(name, re.sub(r'"[^"]*"', "", labels)) for name, labels in parse(text(everything()))}
