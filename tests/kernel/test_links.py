"""The interfaces of a host are read again only after one came, went or was renamed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.netns import Namespace
from xenbw.nft.links import Links

pytestmark = pytest.mark.kernel


@pytest.fixture
def place() -> Iterator[Namespace]:
    with closing(Namespace()) as namespace, namespace.entered():
        yield namespace


def test_each_change_is_seen_at_the_next_look(place: Namespace) -> None:
    with closing(Links()) as links:
        assert links.now() == socket.if_nameindex()
        for change in (
            "link add one type bridge",
            "link set one name two",
            "link set two up",
            "link add three type veth peer name four",
            "link del two",
        ):
            place.ip(change)
            assert links.now() == socket.if_nameindex(), change
        # Many more than the kernel keeps for one who does not listen.
        place.ip(*(f"link add many{n} type bridge" for n in range(300)))
        place.ip("link del three")
        assert links.now() == socket.if_nameindex()


@pytest.mark.usefixtures("place")
def test_without_a_change_they_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Links()) as links:
        links.now()
        monkeypatch.setattr(socket, "if_nameindex", lambda: pytest.fail("read again"))
        assert [name for _, name in links.now()] == ["lo"]
