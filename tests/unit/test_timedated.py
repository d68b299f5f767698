from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.clock import answering
from tests.support.pace import busy
from xenbw import runner
from xenbw.clock import Timedated, synchronised
from xenbw.runner import CommandError, Result


class Bus:
    """Stands in for timedatectl: it answers when a test lets it."""

    def __init__(self) -> None:
        self.questions = 0
        self._answers: list[str] = []
        self._news = threading.Condition()

    def run(self, _argv: Sequence[str], *, timeout: float) -> Result:
        with self._news:
            self.questions += 1
            if not self._news.wait_for(lambda: self._answers, timeout=10):
                raise CommandError("timedatectl: no answer")
            return Result(0, self._answers.pop(0).encode(), b"")

    def answer(self, word: str) -> None:
        """Answer the open question, and wait until the answer has arrived."""
        with self._news:
            self._answers.append(f"{word}\n")
            self._news.notify()
        for thread in threading.enumerate():
            if thread.name == "timedated":
                thread.join(10)


@pytest.fixture
def bus() -> Bus:
    return Bus()


@pytest.fixture
def vouches(bus: Bus) -> Callable[[float, float], bool]:
    return Timedated(bus.run).vouches


@pytest.fixture
def timedatectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a script as timedatectl."""

    def script(text: str) -> None:
        tool = tmp_path / "timedatectl"
        tool.write_text(f"#!/bin/sh\n{text}\n")
        tool.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return script


def test_no_caller_waits_for_the_answer_which_counts_at_a_later_tick(
    bus: Bus, vouches: Callable[[float, float], bool]
) -> None:
    assert not vouches(0, 100)
    assert not vouches(0, 101)
    bus.answer("yes")
    assert vouches(0, 102)
    assert bus.questions == 1


def test_an_answer_to_a_question_from_before_the_doubt_does_not_count(
    bus: Bus, vouches: Callable[[float, float], bool]
) -> None:
    vouches(0, 100)
    bus.answer("yes")
    assert not vouches(105, 105)
    assert not vouches(105, 111)
    bus.answer("yes")
    assert vouches(105, 112)


def test_an_answer_to_a_question_that_was_open_when_the_clock_jumped_does_not_count(
    bus: Bus, vouches: Callable[[float, float], bool]
) -> None:
    vouches(0, 100)
    assert not vouches(101, 101)
    bus.answer("yes")
    assert not vouches(101, 102)
    assert bus.questions == 1


def test_it_is_asked_again_after_ten_seconds_and_not_before(bus: Bus, vouches: Callable[[float, float], bool]) -> None:
    vouches(0, 100)
    bus.answer("no")
    assert not any(vouches(0, 100 + later) for later in range(10))
    assert bus.questions == 1
    vouches(0, 110)
    bus.answer("yes")
    assert vouches(0, 111)
    assert bus.questions == 2


def test_while_timedated_hangs_no_second_question_is_asked(bus: Bus, vouches: Callable[[float, float], bool]) -> None:
    assert not any(vouches(0, later) for later in (0, 11, 22, 33))
    bus.answer("no")
    assert bus.questions == 1


def test_only_yes_means_synchronised() -> None:
    assert synchronised(answering("yes"))
    assert not synchronised(answering("no"))
    assert not synchronised(answering(""))


def test_a_host_without_timedatectl_is_not_synchronised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not synchronised(runner.run)


def test_a_host_without_d_bus_is_not_synchronised(timedatectl: Callable[[str], None]) -> None:
    timedatectl("echo yes; echo 'Failed to connect to bus' >&2; exit 1")
    assert not synchronised(runner.run)


def test_a_bus_that_hangs_is_given_up_and_leaves_no_process(timedatectl: Callable[[str], None], tmp_path: Path) -> None:
    timedatectl(f"echo $$ > {tmp_path}/pid; exec sleep 60")
    begun = time.monotonic()
    assert not synchronised(runner.run, timeout=1)
    assert time.monotonic() - begun < busy(5)
    # A zombie would still be there.
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
