"""The file with metrics for node_exporter: it is whole at each moment, and a running daemon writes it. The dashboard
and the alert rules in docs/examples name only metrics that exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import lonely
from tests.support.books import add_vm, start_vif
from tests.support.clock import HandClock
from tests.support.pace import until
from tests.support.promtool import promtool
from tests.support.samples import NOW, everything, names, needs_promtool, parse
from xenbw.config import DaemonSection, LedgerSection, MetricsSection, Settings
from xenbw.daemon import metrics as daemon_metrics
from xenbw.daemon.cycle import Work
from xenbw.ledger import outbox
from xenbw.ledger.ledger import Ledger
from xenbw.report.metrics import text
from xenbw.tell import textfile
from xenbw.tell.textfile import Textfile

REPO = Path(__file__).parents[2]
EXAMPLES = REPO / "docs" / "examples"


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


@pytest.mark.parametrize("later", ["nothing", "another file"])
def test_the_file_of_an_earlier_setting_is_removed(
    work: Work, settings: Settings, clock: HandClock, later: str
) -> None:
    assert settings.metrics.file is not None
    cycle(work, clock)
    assert settings.metrics.file.exists()
    other = settings.metrics.file.with_name("other.prom")
    work.configure(replace(settings, metrics=MetricsSection(None if later == "nothing" else other)))
    cycle(work, clock)
    assert list(settings.metrics.file.parent.iterdir()) == ([] if later == "nothing" else [other])


def test_a_file_that_cannot_be_removed_is_a_problem_and_tried_again(tmp_path: Path) -> None:
    file, old, new = Textfile(), tmp_path / "old.prom", tmp_path / "new.prom"

    def offer(path: Path) -> None:
        file.offer(path, lambda: "metrics\n")
        assert until(lambda: "metrics" not in (thread.name for thread in threading.enumerate()))

    offer(old)
    old.unlink()
    old.mkdir()  # also root cannot remove a folder as a file
    offer(new)
    assert (file.problem, new.read_text()) == (f"{old}: Is a directory", "metrics\n")
    old.rmdir()
    old.write_text("stale\n")
    offer(new)
    assert file.problem is None
    assert list(tmp_path.iterdir()) == [new]


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
