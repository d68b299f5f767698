"""The watcher of interfaces, with the kernel's real events."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.netns import Namespace
from xenbw.vifs.udev import NetEvent, Overflow, Watcher

pytestmark = pytest.mark.kernel


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    space = Namespace()
    yield space
    space.close()


def watch(namespace: Namespace, buffer: int = 1 << 20) -> Watcher:
    with namespace.entered():
        return Watcher(buffer)


def test_the_watcher_sees_an_interface_appear_change_its_name_and_vanish(namespace: Namespace) -> None:
    watcher = watch(namespace)
    namespace.ip("link add vif1.0 type veth peer name far")
    came = [event for event in watcher.drain() if isinstance(event, NetEvent) and event.interface == "vif1.0"]
    namespace.ip("link set vif1.0 name web0", "link del web0")
    rest = [event for event in watcher.drain() if isinstance(event, NetEvent) and event.interface == "web0"]
    assert [event.action for event in came + rest] == ["add", "move", "remove"]
    assert len({event.ifindex for event in came + rest}) == 1
    watcher.close()


def test_the_watcher_does_not_see_other_namespaces(namespace: Namespace) -> None:
    watcher = watch(namespace)
    other = Namespace()
    other.ip("link add vif1.0 type veth peer name far")
    assert list(watcher.drain()) == []
    other.close()
    watcher.close()


def test_lost_events_are_reported_as_an_overflow_and_later_events_are_seen(namespace: Namespace) -> None:
    watcher = watch(namespace, buffer=2048)
    namespace.ip(*(f"link add vif{n}.0 type veth peer name far{n}" for n in range(200)))
    assert Overflow() in list(watcher.drain())
    list(watcher.drain())
    namespace.ip("link del vif7.0")
    assert any(event == NetEvent("remove", "vif7.0", event.ifindex) for event in watcher.drain() if event != Overflow())
    watcher.close()
