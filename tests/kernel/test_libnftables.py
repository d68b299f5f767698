"""nft's library in our process, and the rule watch, which ignores our own changes."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.netns import Namespace
from xenbw.errors import MeterError
from xenbw.nft.library import Library
from xenbw.nft.netlink import RuleWatch, Table
from xenbw.nft.objects import Quota
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.tables import Apply

pytestmark = pytest.mark.kernel

GOOD = "add table netdev t\nadd counter netdev t c\n"
_INITIAL = "pid:[4026531836]"  # linux/proc_ns.h, PROC_PID_INIT_INO


@pytest.fixture
def place() -> Iterator[None]:
    """A network namespace with its own nft rules."""
    with closing(Namespace()) as namespace, namespace.entered():
        yield


@pytest.mark.usefixtures("place")
def test_a_batch_is_applied_as_a_whole_or_not_at_all(capfd: pytest.CaptureFixture[str]) -> None:
    library = Library()
    assert library.apply(GOOD + "add counter netdev nosuchtable c\n") is not None
    assert library.apply(GOOD + "nonsense\n") is not None
    assert Table("t").counters() == {}
    assert library.apply(GOOD) is None
    assert Table("t").counters() == {"c": 0}
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("place")
def test_single_objects_are_read_by_their_names() -> None:
    table = Table("t")
    assert (table.counters(["c"]), table.quotas(["q"])) == ({}, {})
    assert (
        Library().apply(GOOD + "add counter netdev t d\nadd quota netdev t q { over 9 bytes used 7 bytes }\n") is None
    )
    assert table.counters(["nosuch", "d"]) == {"d": 0}
    assert table.quotas(["nosuch", "q"]) == table.quotas() == {"q": Quota(9, 7)}
    table.close()


@pytest.mark.usefixtures("place")
def test_nfts_error_for_a_batch_is_returned() -> None:
    wrong = GOOD + "add counter netdev nosuchtable c\n"
    assert Library().apply(wrong) == "No such file or directory"
    assert hand_to_nft(wrong) == "No such file or directory / add counter netdev nosuchtable c"


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("apply", [lambda text: Library().apply(text), hand_to_nft], ids=["library", "program"])
def test_a_long_and_odd_error_fits_a_line_of_the_log(apply: Apply) -> None:
    (line,) = str(apply(f"add table netdev \x1b[31m{'x' * 5000}\n")).splitlines()
    assert line.isprintable()
    assert 0 < len(line) <= 240


@pytest.mark.skipif(
    str(Path("/proc/self/ns/pid").readlink()) != _INITIAL,
    reason="the kernel tells who made a change by the number he has in the first of the namespaces",
)
@pytest.mark.usefixtures("place")
def test_our_own_changes_are_no_news_and_another_programs_are() -> None:
    watch = RuleWatch()
    assert watch.apply(GOOD) is None
    assert not watch.drain()
    assert hand_to_nft("delete counter netdev t c\n") is None
    assert watch.drain()
    assert watch.apply(GOOD) is None
    assert not watch.drain()
    watch.close()


def test_a_host_without_the_library_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise OSError("no such file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(MeterError) as caught:
        Library()
    assert "libnftables1" in str(caught.value.hint)
