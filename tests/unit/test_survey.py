"""Which domains have traffic that dom0 does not see, by what the toolstack wrote in xenstore."""

from __future__ import annotations

import re
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pace import busy
from tests.support.xenstored import Xenstored
from tests.support.xstree import Node
from xenbw.xen.survey import Outside, survey
from xenbw.xen.xenstore import Lookup, Survey, XenStore

CAPTURE = Path(__file__).parents[1] / "data/xen-4.17/05-three-guests-and-novif-before-traffic"


def vif(domid: int, devid: int, backend: int = 0) -> dict[str, str | bytes]:
    """What libxl writes about a vif whose backend is in that domain."""
    path = f"/local/domain/{backend}/backend/vif/{domid}/{devid}"
    return {f"{path}/frontend-id": str(domid), f"/libxl/{domid}/device/vif/{devid}/backend": path}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Xenstored]:
    with Xenstored(tmp_path / "socket") as running:
        yield running


@pytest.fixture
def store(server: Xenstored) -> Iterator[XenStore]:
    with XenStore(str(server.path), timeout=busy(2)) as connected:
        yield connected


def captured(server: Xenstored) -> None:
    """Three guests with vifs, and one without."""
    for name in ("xenstore-local-domain.txt", "xenstore-libxl.txt"):
        text = (CAPTURE / name).read_text()
        server.write_all(dict(re.findall(r'^(/\S+) = "(.*)"$', text, re.MULTILINE)))


def test_of_a_real_dom0_s_guests_the_one_without_a_vif_is_found(server: Xenstored, store: XenStore) -> None:
    captured(server)
    assert survey(store) == (Outside(4, "novif", 0, ()),)


def test_a_vif_in_a_driver_domain_is_found_with_that_domain_s_name(server: Xenstored, store: XenStore) -> None:
    server.write_all({"/local/domain/5/name": "netdrv", "/local/domain/7/name": "web1", **vif(7, 0, 5), **vif(5, 0)})
    assert survey(store) == (Outside(7, "web1", 0, ((0, 5, "netdrv"),)),)


def test_a_vm_with_one_vif_here_and_one_there_is_found(server: Xenstored, store: XenStore) -> None:
    server.write_all({"/local/domain/7/name": "web1", **vif(7, 0), **vif(7, 1, 5)})
    assert survey(store) == (Outside(7, "web1", 1, ((1, 5, None),)),)


def test_a_migrating_domain_has_the_vm_s_name_and_one_without_a_name_is_left_out(
    server: Xenstored, store: XenStore
) -> None:
    server.write_all({"/local/domain/8/name": "web1--incoming", "/local/domain/9/domid": "9"})
    assert survey(store) == (Outside(8, "web1", 0, ()),)


def test_helpers_of_the_host_and_of_guests_and_crashed_domains_are_no_vms(server: Xenstored, store: XenStore) -> None:
    helpers = {4: "web1-dm", 5: "netdrv", 6: "Xenstore", 8: "web1-20260801T0840Z"}
    server.write_all({f"/local/domain/{domid}/name": name for domid, name in helpers.items()})
    server.write_all({"/local/domain/4/target": "7", "/local/domain/5/libxl": "", "/tool/xenstored/domid": "6"})
    server.write_all({"/local/domain/8/vm": "/vm/new", "/local/domain/9/name": "x-dm"})
    assert survey(store) == (Outside(9, "x-dm", 0, ()),)


def test_only_numbers_are_domains(server: Xenstored, store: XenStore) -> None:
    server.write_all({"/local/domain/web0/device/vif/web0/mtu": "1500"})
    assert survey(store) == ()


def test_nothing_a_guest_can_write_is_asked_for(server: Xenstored, store: XenStore) -> None:
    captured(server)
    server.write_all(
        {
            "/local/domain/4/device/vif/0/backend": "/local/domain/0/backend/vif/4/0",
            "/local/domain/1/device/vif/9/backend": "/local/domain/5/backend/vif/1/9",
        }
    )
    assert survey(store) == (Outside(4, "novif", 0, ()),)
    assert not any(re.match(r"/local/domain/[1-9]\d*/(device|data|control)", path) for _, path in server.seen)


def test_a_backend_that_is_not_a_path_of_a_backend_is_ignored(server: Xenstored, store: XenStore) -> None:
    server.write_all({"/local/domain/7/name": "web1", **vif(7, 0), "/libxl/7/device/vif/1/backend": "../../x"})
    assert survey(store) == ()


def test_more_domains_than_xenstored_lists_in_one_answer_are_all_found(server: Xenstored, store: XenStore) -> None:
    server.write_all({f"/local/domain/{domid}/name": f"vm{domid}" for domid in range(10_000, 12_000)})
    assert [domain.domid for domain in survey(store)] == list(range(10_000, 12_000))


def test_domains_that_come_while_the_list_is_read_in_parts_do_no_harm(
    server: Xenstored, store: XenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.write_all({f"/local/domain/{domid}/domid": "" for domid in range(1000, 3000)})
    whole, calls = server.tree.node, []

    def node(path: bytes) -> Node:
        if path == b"/local/domain":
            calls.append(path)
            if len(calls) == 3:
                server.tree.write(b"/local/domain/999/domid", b"")
        return whole(path)

    monkeypatch.setattr(server.tree, "node", node)
    assert store.numbers("/local/domain") == {0, 999, *range(1000, 3000)}


# by the thread that asks


@pytest.fixture
def lookup(server: Xenstored) -> Iterator[Lookup]:
    asking = Lookup(str(server.path), timeout=3, pause=0.05)
    yield asking
    asking.close()


def test_a_survey_is_answered_like_any_question(server: Xenstored, lookup: Lookup) -> None:
    captured(server)
    lookup.survey()
    assert answers(lookup, 1) == [Survey((Outside(4, "novif", 0, ()),))]


def test_surveys_do_not_queue_up(server: Xenstored, lookup: Lookup) -> None:
    server.hang()
    for _ in range(5):
        lookup.survey()
    lookup.ask(7, 0)
    found = answers(lookup, 2)
    assert [type(answer).__name__ for answer in found] == ["Survey", "Answer"]
    assert all(answer.error for answer in found)
    server.resume()
    lookup.survey()
    assert answers(lookup, 1) == [Survey(())]


def answers(lookup: Lookup, count: int) -> list[object]:
    """That many answers, once they have come, and no more."""
    found: list[object] = []
    while len(found) < count:
        assert select.select([lookup], [], [], busy(5))[0], "no answer came"
        found += lookup.answers()
    assert not select.select([lookup], [], [], 0.1)[0]
    return found
