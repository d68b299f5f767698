"""tools/steps keeps a page that says when each step last passed."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.clock import utc
from tests.support.host import REPO

NOW, LATER = utc("2026-11-28 18:05"), utc("2026-11-29 07:30")


@pytest.fixture(scope="module")
def steps() -> ModuleType:
    loader = SourceFileLoader("steps", str(REPO / "tools" / "steps"))
    spec = spec_from_loader("steps", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_each_step_that_passed_has_a_row(steps: ModuleType) -> None:
    page = steps.record("", [steps.Ended("lint", 0, 8.2), steps.Ended("deb-test", 2, 30.0)], NOW, "abc")
    assert "| `make lint` | 2026-11-28 18:05 | abc | 8 s |" in page
    assert "deb-test" not in page


def test_a_step_that_failed_or_was_not_run_keeps_its_row(steps: ModuleType) -> None:
    first = steps.record("", [steps.Ended(name, 0, 8) for name in ("lint", "deb-test")], NOW, "abc")
    page = steps.record(first, [steps.Ended("lint", 0, 9), steps.Ended("deb-test", 1, 5)], LATER, "def")
    assert "| `make lint` | 2026-11-29 07:30 | def | 9 s |" in page
    assert "| `make deb-test` | 2026-11-28 18:05 | abc | 8 s |" in page
    assert page.count("`make lint`") == 1


def test_each_debian_has_a_row_of_its_own(steps: ModuleType) -> None:
    names = [f"xen-test SUITES={suite}" for suite in ("bookworm", "trixie")]
    first = steps.record("", [steps.Ended(name, 0, 8) for name in names], NOW, "abc")
    page = steps.record(first, [steps.Ended(names[1], 0, 9)], LATER, "def")
    assert f"| `make {names[0]}` | 2026-11-28 18:05 | abc | 8 s |" in page
    assert f"| `make {names[1]}` | 2026-11-29 07:30 | def | 9 s |" in page
    assert page.count("xen-test") == 2


def test_a_target_can_be_made_for_one_debian(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "Makefile").write_text("SUITES = bookworm trixie\nsay:\n\t@echo suites: $(SUITES)\n")
    monkeypatch.setattr(steps, "REPO", tmp_path)
    monkeypatch.setattr(steps, "LOGS", tmp_path)
    assert steps.run("say@trixie")[:2] == ("say SUITES=trixie", 0)
    assert (tmp_path / "say@trixie.log").read_text() == "suites: trixie\n"


@pytest.mark.parametrize(("options", "ran"), [([], ["good", "bad"]), (["--keep-going"], ["good", "bad", "after"])])
def test_a_failed_step_ends_the_run_unless_it_keeps_going(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], ran: list[str]
) -> None:
    (tmp_path / "Makefile").write_text("good after:\n\t@echo $@\nbad:\n\t@exit 1\n")
    monkeypatch.setattr(steps, "REPO", tmp_path)
    monkeypatch.setattr(steps, "LOGS", tmp_path)
    monkeypatch.setattr("sys.argv", ["steps", *options, "good", "bad", "after"])
    assert steps.main() == 1
    assert sorted(log.stem for log in tmp_path.glob("*.log")) == sorted(ran)
