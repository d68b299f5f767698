"""The names of the VMs among the domains that are listed: whole, and without helpers and what has crashed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.xenstored import Xenstored
from xenbw.xen.toolstack import Domain, guests, parse_list
from xenbw.xen.vmnames import of

XM_MIGRATING = Path(__file__).parents[1] / "data/xm/xm-list-migrating.txt"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Xenstored]:
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "socket"))
    with Xenstored(tmp_path / "socket") as running:
        yield running


@pytest.fixture
def _silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No xenstored answers."""
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "none"))


def exists(server: Xenstored, domid: int, name: str, **nodes: str) -> Domain:
    """A domain in xenstore, as the list shows it."""
    home = f"/local/domain/{domid}"
    more = {f"{home}/{key}": value for key, value in nodes.items()}
    server.write_all({f"{home}/name": name, f"{home}/vm": f"/vm/{domid}", f"/vm/{domid}/name": name, **more})
    return Domain(name.rstrip(), domid)


@pytest.mark.parametrize("name", ["web1", "n10 ", " n10", "two\nlines", "x-dm", "Xenstore", "web1-20260801T0840Z"])
def test_a_vm_has_its_name_from_xenstore(server: Xenstored, name: str) -> None:
    assert of([exists(server, 4, name)], xend=False) == [name]


def test_a_helper_domain_is_not_a_vm(server: Xenstored) -> None:
    listed = [
        exists(server, 4, "web1"),
        exists(server, 5, "web1-dm", target="4"),
        exists(server, 6, "netdrv", libxl=""),
        exists(server, 7, "diskdrv", backend=""),
        exists(server, 8, "Xenstore"),
    ]
    server.write_all({"/tool/xenstored/domid": "8"})
    assert of(listed, xend=False) == ["web1"]


def test_a_domain_without_a_name_in_xenstore_is_not_a_vm(server: Xenstored) -> None:
    assert of([Domain("web1", 4)], xend=False) == []


def test_only_a_domain_that_is_being_received_loses_its_migration_suffix(server: Xenstored) -> None:
    received, odd = exists(server, 4, "web1--incoming"), exists(server, 5, "web2--incoming")
    server.write_all({"/local/domain/0/backend/vif/4/0/state": "2", "/local/domain/0/backend/vif/5/0/state": "4"})
    assert of([received, odd], xend=False) == ["web1", "web2--incoming"]


def test_a_crashed_domain_that_is_kept_is_not_a_vm(server: Xenstored) -> None:
    corpse = exists(server, 4, "web1-20260801T0840Z", vm="/vm/new")
    assert of([corpse, exists(server, 5, "web1")], xend=False) == ["web1"]


@pytest.mark.usefixtures("_silent")
def test_without_xenstore_the_names_come_from_the_list() -> None:
    listed = guests(parse_list(XM_MIGRATING.read_bytes()))
    assert of(listed, xend=True) == ["mig"]
    assert of([Domain("migrating-x", 4), Domain("web1--incoming", 5)], xend=False) == ["migrating-x", "web1"]
