"""tools/steps keeps a page that says when each step last passed."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
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
