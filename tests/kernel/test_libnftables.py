"""nft's library in the process of who uses it, and that its changes are known for one's own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.netns import Namespace
from xenbw.net.counters import MeterError
from xenbw.net.libnftables import Library
from xenbw.net.netfilter import RuleWatch, Table, hand_to_nft

pytestmark = pytest.mark.kernel

GOOD = "add table netdev t\nadd counter netdev t c\n"
_INITIAL = "pid:[4026531836]"  # linux/proc_ns.h, PROC_PID_INIT_INO


@pytest.fixture
def place() -> Iterator[None]:
    """Rules of its own."""
    with closing(Namespace()) as namespace, namespace.entered():
        yield


@pytest.mark.usefixtures("place")
def test_a_batch_happens_wholly_or_not_at_all_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    library = Library()
    assert not library.apply(GOOD + "add counter netdev nosuchtable c\n")
    assert not library.apply(GOOD + "nonsense\n")
    assert Table("t").counters() == {}
    assert library.apply(GOOD)
    assert Table("t").counters() == {"c": 0}
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(
    str(Path("/proc/self/ns/pid").readlink()) != _INITIAL,
    reason="the kernel tells who made a change by the number he has in the first of the namespaces",
)
@pytest.mark.usefixtures("place")
def test_ones_own_changes_are_no_news_and_anothers_are() -> None:
    watch = RuleWatch()
    assert watch.apply(GOOD)
    assert not watch.drain()
    assert hand_to_nft("delete counter netdev t c\n")
    assert watch.drain()
    assert watch.apply(GOOD)
    assert not watch.drain()
    watch.close()


def test_a_host_without_the_library_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise OSError("no such file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(MeterError) as caught:
        Library()
    assert "libnftables1" in str(caught.value.hint)
