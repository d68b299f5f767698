"""Whose a domain is, by what only the toolstack writes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pace import busy
from tests.support.xenstored import Xenstored
from xenbw.xen import identity
from xenbw.xen.wire import Store
from xenbw.xen.xenstore import XenStore

TARGET = "/local/domain/5/target"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Xenstored]:
    with Xenstored(tmp_path / "socket") as running:
        yield running


@pytest.fixture
def hook(server: Xenstored, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The hook's connection to xenstored."""
    monkeypatch.setenv("XENSTORED_PATH", str(server.path))
    connected = Store(busy(1))
    yield connected
    connected.close()


@pytest.mark.parametrize(("target", "whose"), [("4", 4), ("0", 5), ("", 5), ("-1", 5), ("4/../9", 5), ("4" * 9, 5)])
def test_a_stub_serves_the_domain_that_its_target_names(
    server: Xenstored, hook: Store, target: str, whose: int
) -> None:
    server.write_all({TARGET: target})
    assert identity.served(hook, 5) == whose
    with XenStore(str(server.path)) as store:
        assert identity.served(store, 5) == whose


def test_a_target_that_a_guest_wrote_is_not_believed(server: Xenstored, hook: Store) -> None:
    server.write_all({TARGET: "4"})
    server.tree.set_perms(TARGET.encode(), (b"n5", b"r0"))
    assert identity.served(hook, 5) == 5
    with XenStore(str(server.path)) as store:
        assert identity.served(store, 5) == 5


@pytest.mark.parametrize(
    ("called", "vm_name", "whose"),
    [
        ("web1-20260801T0840Z", None, "web1"),
        ("web1-20260801T0840Z", "web1", "web1"),
        ("web1-20260801T0840Z", "web1-20260801T0840Z", None),
        ("web1", None, None),
        ("-20260801T0840Z", None, None),
        ("web1-2026080XT0840Z", None, None),
        ("web1-\u0662\u0660260801T0840Z", None, None),
        ("web1-20260801T0840Z-20260802T0000Z", None, "web1-20260801T0840Z"),
    ],
)
def test_a_crashed_domain_that_is_kept_has_a_uuid_without_its_name(
    called: str, vm_name: str | None, whose: str | None
) -> None:
    assert identity.corpse_of(called, vm_name) == whose


def _child(folder: Path, program: str, *words: str) -> bool:
    """Whether a process under a program of that name and with those words takes itself for a received domain's hook."""
    shell = folder / program
    shell.symlink_to("/bin/bash")
    code = "import sys; sys.path.insert(0, '.'); from xenbw.xen import identity; print(identity.received())"
    argv = [shell, "-c", '"$@"; exit', words[0], "python3", "-c", code, *words[1:]]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "True\n"


def test_a_domain_is_received_if_xl_receives_it(tmp_path: Path) -> None:
    assert not identity.received()
    assert _child(tmp_path, "xl", "migrate-receive")


@pytest.mark.parametrize(("program", "word"), [("xl", "create"), ("notxl", "migrate-receive")])
def test_a_domain_that_is_created_is_not_received(tmp_path: Path, program: str, word: str) -> None:
    assert not _child(tmp_path, program, word)
