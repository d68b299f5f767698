"""What all layers share: a test that fails shows the ends of its logs and leaves evidence, and the end of the run names
where."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import evidence
from tests.support.dom0 import Dom0

Dom0.on_failure = evidence.keep


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep the evidence of what still stands when a test fails: what its fixtures made."""
    outcome: Any = yield
    report, folder = outcome.get_result(), evidence.folder_of(item.nodeid)
    if not report.failed:
        # A test may leave a dom0 by an exception that it expects, and an earlier run may have failed.
        if report.when != "teardown":
            shutil.rmtree(folder, ignore_errors=True)
        return
    for dom0 in list(Dom0.standing):
        evidence.keep(dom0)
    if folder.exists():
        report.sections += [("evidence", str(folder)), *evidence.log_ends(folder)]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name the folders at the end, after the list of failures."""
    stats = terminalreporter.stats
    failed = [report for kind in ("failed", "error") for report in stats.get(kind, [])]
    folders = sorted({text for report in failed for title, text in report.sections if title == "evidence"})
    for folder in folders:
        terminalreporter.write_line(f"evidence: {folder}")
