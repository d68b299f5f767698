"""tools/steps keeps a page that says when each step last passed."""

from __future__ import annotations

import shutil
import subprocess
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


@pytest.fixture
def folder(steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the Makefile and of the logs."""
    monkeypatch.setattr(steps, "REPO", tmp_path)
    monkeypatch.setattr(steps, "LOGS", tmp_path)
    return tmp_path


def test_each_step_that_passed_has_a_row(steps: ModuleType) -> None:
    page = steps.record("", [steps.Ended("lint", 0, 8.2), steps.Ended("deb-test", 2, 30.0)], NOW, "abc")
    assert "| `make lint` | 2026-11-28 18:05 | abc | 8 s |" in page
    assert "deb-test" not in page


def test_a_step_that_passed_with_warnings_says_so(steps: ModuleType, folder: Path) -> None:
    (folder / "Makefile").write_text("bench:\n\t@echo fine; echo warning: slow; echo no warning: here\n")
    page = steps.record("", [steps.run("bench")], NOW, "abc")
    assert "| abc | 0 s, warnings: 1 |" in page
    assert steps.rows(page)["bench"].took == "0 s, warnings: 1"


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


def test_a_target_can_be_made_for_one_debian(steps: ModuleType, folder: Path) -> None:
    (folder / "Makefile").write_text("SUITES = bookworm trixie\nsay:\n\t@echo suites: $(SUITES)\n")
    assert steps.run("say@trixie")[:2] == ("say SUITES=trixie", 0)
    assert (folder / "say@trixie.log").read_text() == "suites: trixie\n"


@pytest.mark.parametrize(("options", "ran"), [([], ["good", "bad"]), (["--keep-going"], ["good", "bad", "after"])])
def test_a_failed_step_ends_the_run_unless_it_keeps_going(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, options: list[str], ran: list[str]
) -> None:
    (folder / "Makefile").write_text("good after:\n\t@echo $@\nbad:\n\t@exit 1\n")
    monkeypatch.setattr("sys.argv", ["steps", *options, "good", "bad", "after"])
    assert steps.main() == 1
    assert sorted(log.stem for log in folder.glob("*.log")) == sorted(ran)


@pytest.fixture
def tree(steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A repository whose targets write their name, and whether all cases are to be run, into the file "ran"."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setattr(steps, "REPO", tmp_path)
    monkeypatch.setattr(steps, "LOGS", tmp_path / "build")
    monkeypatch.setenv("XENBW_THOROUGH", "")
    say = "\t@echo $@ $(SUITES) $(XENBW_THOROUGH) >>build/ran\n"
    write(tmp_path, "Makefile", f"test xen-test soak:\n{say}bad:\n\t@exit 1\n")
    write(tmp_path, ".gitignore", "build\n")
    write(tmp_path, "xenbw/daemon.py", "")
    write(tmp_path, "tests/kernel/test_bridge.py", "")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def write(tree: Path, path: str, text: str) -> None:
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_text(text)


def git(tree: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@example.org", *words], check=True)


def commit(tree: Path) -> None:
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "A change")


def go(steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tree: Path, *names: str) -> list[str]:
    """Run the steps with a record; what they have written into "ran"."""
    ran = tree / "build/ran"
    ran.unlink(missing_ok=True)
    monkeypatch.setattr("sys.argv", ["steps", "--record", str(tree / "last.md"), "--keep-going", *names])
    steps.main()
    return ran.read_text().splitlines() if ran.exists() else []


def test_a_run_goes_on_where_it_was(steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    names = ("test", "bad", "xen-test@trixie")
    assert go(steps, monkeypatch, tree, *names) == ["test 1", "xen-test trixie 1"]
    # The record is not committed yet; then it is, and nothing else is.
    assert go(steps, monkeypatch, tree, *names, "xen-test@bookworm") == ["xen-test bookworm 1"]
    commit(tree)
    assert go(steps, monkeypatch, tree, "test", "xen-test@trixie+soak") == ["soak 1"]
    assert set(steps.rows((tree / "last.md").read_text())) == {
        "test",
        "xen-test SUITES=trixie",
        "xen-test SUITES=bookworm",
        "soak",
    }


def test_a_step_is_run_again_if_what_it_reads_has_changed(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tree: Path
) -> None:
    names = ("test", "xen-test@trixie", "soak")
    go(steps, monkeypatch, tree, *names)
    write(tree, "tests/kernel/test_bridge.py", "# changed")
    commit(tree)
    assert go(steps, monkeypatch, tree, *names) == ["test 1", "soak 1"]
    write(tree, "xenbw/daemon.py", "# changed")
    commit(tree)
    assert go(steps, monkeypatch, tree, *names) == ["test 1", "xen-test trixie 1", "soak 1"]


def test_a_tree_that_is_not_as_its_commit_is_tested_each_time(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tree: Path
) -> None:
    for path in ("xenbw/daemon.py", "xenbw/new.py"):
        assert go(steps, monkeypatch, tree, "test") == ["test 1"]
        write(tree, path, "# not committed")
        for _ in range(2):
            assert go(steps, monkeypatch, tree, "test") == ["test 1"]
        commit(tree)


def test_a_commit_that_is_gone_counts_as_changed(
    steps: ModuleType, monkeypatch: pytest.MonkeyPatch, tree: Path
) -> None:
    write(tree, "last.md", steps.record("", [steps.Ended("test", 0, 8)], NOW, "0123456789ab"))
    commit(tree)
    assert go(steps, monkeypatch, tree, "test") == ["test 1"]
