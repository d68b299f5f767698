"""The metrics: as Prometheus reads them, from the ledger and from a running daemon's loop."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support import lonely, manpage
from tests.support.books import add_vm, start_vif
from tests.support.clock import HandClock, utc
from tests.support.console import Console, StandIn
from tests.support.pace import until
from tests.support.promtool import PROGRAM, promtool
from xenbw.config import DaemonSection, LedgerSection, MetricsSection, Settings
from xenbw.daemon import metrics as daemon_metrics
from xenbw.daemon.cycle import Work
from xenbw.ledger import outbox
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.unmetered import Unmetered
from xenbw.model import VM, Allowance, Amounts, Counters, Entry, Kind, Period, State
from xenbw.report.metrics import Sample, VifSample, text
from xenbw.tell import textfile
from xenbw.tell.textfile import Textfile

REPO = Path(__file__).parents[2]
EXAMPLES = REPO / "docs" / "examples"
NOW = utc("2026-11-20 12:00")
PERIOD = Period(utc("2026-11-01"), utc("2026-12-01"))
HOSTILE = 'e"vil\\\n# EOF\nxenbw_up 0\r\x1b[2J\u202e{}",state="ok"} 9'
STATUS: dict[str, Any] = {
    "started_at": "2026-11-20T11:00:00Z",
    "meter": "kernel",
    "meter_reason": "nft is broken",
    "meter_gaps": 2,
    "interfaces": 3,
    "pending_vifs": 1,
    "null_routes": 4,
    "problems": ["a", "b"],
    "last_commit": "2026-11-20T11:59:55Z",
    "clock_trusted": True,
    "book": {"backlog": 7, "current_at": "2026-11-20T11:58:00Z", "summary": "behind"},
}

needs_promtool = pytest.mark.skipif(PROGRAM is None, reason="needs promtool: tools/setup test")
_LINE = re.compile(r'(?P<name>[a-z_]+)(?:\{(?P<labels>(?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (?P<value>\S+)')


def entry(vm_id: int, name: str, limit: int | None = 1000, **facts: Any) -> Entry:
    vm = VM(vm_id, name, NOW, **{"added_at": NOW, **facts})
    return Entry(vm, Allowance(limit, hard_limit_bytes=limit and 2 * limit), True, PERIOD)


def sample(*entries: Entry, **facts: Any) -> Sample:
    return Sample(NOW, {one.vm.id: one for one in entries}, facts.pop("here", {}), **facts)


def everything() -> Sample:
    """A sample with every metric."""
    vifs = [VifSample(1, 7, 0, Kind.VIF, Amounts(1, 2, 3, 4, 5))]
    waiting = {"mail": 3}
    web1 = entry(1, "web1", forecast_at=PERIOD.end - timedelta(minutes=1))
    return sample(web1, here={1: Counters(400, 450)}, vifs=vifs, status=STATUS, waiting=waiting)


def parse(metrics: str) -> dict[tuple[str, str], float]:
    """(metric, labels) -> value. It fails for a line that is none, and for a series that comes twice."""
    found: dict[tuple[str, str], float] = {}
    for line in metrics.splitlines():
        if not line.startswith("#"):
            parts = _LINE.fullmatch(line)
            assert parts, line
            series = parts["name"], parts["labels"] or ""
            assert series not in found
            found[series] = float(parts["value"])
    return found


def names(metrics: str) -> set[str]:
    return {name for name, _ in parse(metrics)}


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


# the file


def test_the_file_is_replaced_as_a_whole_and_every_user_can_read_it(tmp_path: Path) -> None:
    path, before = tmp_path / "xenbw.prom", os.umask(0o077)
    try:
        textfile.replace(path, "old\n")
        with path.open() as reader:
            textfile.replace(path, "new\n")
            assert reader.read() == "old\n"
    finally:
        os.umask(before)
    assert path.read_text() == "new\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path, texts = tmp_path / "xenbw.prom", {letter * 200_000 for letter in "ab"}
    textfile.replace(path, "a" * 200_000)
    ending = threading.Event()

    def write() -> None:
        while not ending.is_set():
            for one in sorted(texts):
                textfile.replace(path, one)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert {path.read_text() for _ in range(200)} <= texts
    finally:
        ending.set()
        writer.join()


def test_a_link_in_place_of_the_file_or_the_new_file_is_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "xenbw.prom"
    victim.write_text("untouched")
    path.symlink_to(victim)
    (tmp_path / ".xenbw.prom.new").symlink_to(victim)
    textfile.replace(path, "metrics\n")
    assert (victim.read_text(), path.is_symlink(), path.read_text()) == ("untouched", False, "metrics\n")


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "xenbw.prom"
    textfile.replace(path, "old\n")
    code = (
        "import resource, signal; from pathlib import Path; from xenbw.tell import textfile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))\n"
        f"textfile.replace(Path({str(path)!r}), 'x' * 99999)"
    )
    done = subprocess.run(["/usr/bin/python3", "-B", "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert "OSError" in done.stderr
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_hangs_delays_nobody_and_is_a_problem(tmp_path: Path) -> None:
    file, path, goes_on = Textfile(), tmp_path / "xenbw.prom", threading.Event()

    def slow() -> str:
        goes_on.wait(30)
        return "first\n"

    begin = time.monotonic()
    file.offer(path, slow)
    file.offer(path, lambda: "second\n")
    assert time.monotonic() - begin < 5
    assert file.problem == f"{path}: the disk has not taken it yet"
    goes_on.set()
    assert until(lambda: file.problem is None)
    assert path.read_text() == "first\n"


# the daemon


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOW, 100_000)


@pytest.fixture
def settings(tmp_path: Path, ledger: Ledger) -> Settings:
    folder = tmp_path / "collector"
    folder.mkdir()
    return Settings(
        daemon=DaemonSection(run_dir=tmp_path / "run"),
        ledger=LedgerSection(path=ledger.path),
        metrics=MetricsSection(folder / "xenbw.prom"),
    )


@pytest.fixture
def work(
    ledger: Ledger, settings: Settings, clock: HandClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Work]:
    with lonely.started(settings, ledger, clock, tmp_path, monkeypatch) as work:
        yield work


def cycle(work: Work, clock: HandClock) -> None:
    clock.go(seconds=15)
    work.cycle([])
    assert until(lambda: "metrics" not in (thread.name for thread in threading.enumerate()))


def test_the_daemon_writes_its_numbers_with_those_of_its_threads(
    work: Work, ledger: Ledger, settings: Settings, clock: HandClock
) -> None:
    add_vm(ledger, "web1", NOW, limit_bytes=1000)
    start_vif(ledger, "web1", NOW, domid=7)
    outbox.queue(ledger, NOW, "subject", "body")
    work.metrics.beside = lambda status: {**status, "book": {"backlog": 5, "current_at": None}}
    work.sync()
    cycle(work, clock)
    assert settings.metrics.file is not None
    found = parse(settings.metrics.file.read_text())
    assert found["xenbw_vm_allowance_bytes", 'vm="web1"'] == 1000
    assert found["xenbw_messages_waiting", 'channel="mail"'] == 1
    assert found["xenbw_book_backlog_records", ""] == 5
    assert found["xenbw_up", ""] == 1
    assert found["xenbw_timestamp_seconds", ""] == clock.wall.timestamp()


def test_a_folder_that_cannot_be_written_is_a_problem_said_once(
    work: Work, settings: Settings, clock: HandClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert settings.metrics.file is not None
    folder = settings.metrics.file.parent
    cycle(work, clock)
    settings.metrics.file.unlink()
    folder.rmdir()
    for _ in range(4):
        cycle(work, clock)
    said = f"metrics: {folder}/xenbw.prom: No such file or directory (create the folder, or set [metrics] file)"
    assert work.status().document()["problems"] == [said]
    assert [record.getMessage() for record in caplog.records if "metrics" in record.getMessage()] == [said]
    folder.mkdir()
    cycle(work, clock)
    cycle(work, clock)
    assert work.status().document()["problems"] == []


def test_the_default_file_is_written_only_if_its_folder_exists(
    work: Work, settings: Settings, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert settings.metrics.file is not None
    monkeypatch.setattr(daemon_metrics, "DEFAULT_METRICS", settings.metrics.file)
    settings.metrics.file.unlink(missing_ok=True)
    settings.metrics.file.parent.rmdir()
    cycle(work, clock)
    cycle(work, clock)
    assert work.status().document()["problems"] == []
    settings.metrics.file.parent.mkdir()
    cycle(work, clock)
    assert settings.metrics.file.exists()


def test_without_a_file_nothing_is_written(work: Work, settings: Settings, clock: HandClock) -> None:
    assert settings.metrics.file is not None
    work.configure(replace(settings, metrics=MetricsSection(None)))
    settings.metrics.file.unlink(missing_ok=True)
    cycle(work, clock)
    assert not settings.metrics.file.exists()


# the examples


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("xenbw*.*")), ids=lambda path: path.name)
def test_an_example_names_only_metrics_that_exist(example: Path) -> None:
    named = set(re.findall(r"\bxenbw_\w+", example.read_text()))
    assert len(named) > 5
    assert named - names(text(everything())) == set()


def test_the_dashboard_is_json_and_its_panels_do_not_overlap() -> None:
    panels = json.loads((EXAMPLES / "xenbw-grafana.json").read_text())["panels"]
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert len({panel["id"] for panel in panels}) == len(panels)


@needs_promtool
def test_prometheus_accepts_the_alert_rules() -> None:
    status, said = promtool("check", "rules", str(EXAMPLES / "xenbw.rules.yml"))
    assert status == 0, said


@needs_promtool
def test_prometheus_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    panels = json.loads((EXAMPLES / "xenbw-grafana.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [
        {"record": f"query:{n}", "expr": re.sub(r"\$__rate_interval", "5m", query)} for n, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    status, said = promtool("check", "rules", str(file))
    assert status == 0, said
