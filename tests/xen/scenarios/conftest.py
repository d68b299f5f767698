"""Fixtures of the scenarios: the package in dom0, br_netfilter as the README advises, and two guests that stay."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rig import guest, package, park, shell
from rig.guest import Guest
from rig.park import Pair

# tests/xen/__main__.py copies the saved state of failures from here.
_RESULTS = Path("/rig/results")
_EVIDENCE = {
    "journal.txt": "journalctl --no-pager -o short-precise",
    "nft.txt": "nft -a list ruleset",
    "iptables.txt": "iptables-legacy-save -c; ip6tables-legacy-save -c",
    "links.txt": "ip -d -s link; bridge -d link; ip addr",
    "xenstore.txt": "xenstore-ls -f /",
    "domains.txt": "xl list -v; ps axo pid,etimes,time,args",
    "run.txt": "grep -r '' /run/xenbw",
    "status.json": "timeout 60 xenbw status --json",
}
_FILES = ("/var/log/xen", "/run/rig/outside.pcap", "/var/lib/xenbw")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """When a scenario fails, save the state of dom0 in a folder of its own."""
    outcome: Any = yield
    if not outcome.get_result().failed:
        return
    folder = _RESULTS / re.sub(r"[^A-Za-z0-9._-]+", "-", item.nodeid)[:150]
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in _EVIDENCE.items():
        with (folder / name).open("wb") as file:
            subprocess.run(["sh", "-c", command], stdout=file, stderr=file, check=False)
    for path in map(Path, _FILES):
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        elif path.exists():
            shutil.copy(path, folder)


@pytest.fixture(scope="session", autouse=True)
def bridge_netfilter() -> None:
    """br_netfilter, as the README advises: without it iptables does not see bridged frames. One test module switches it
    off."""
    shell.run("modprobe", "br_netfilter")
    Path("/etc/modules-load.d/br_netfilter.conf").write_text("br_netfilter\n")


@pytest.fixture(scope="module", autouse=True)
def xenbw() -> None:
    """The package under test, installed and running."""
    if package.which() != package.CURRENT:
        package.install(package.CURRENT)


@pytest.fixture(scope="module")
def pair(xenbw: None) -> Pair:
    """web1 and db1, running and known to xenbw. Each module leaves them as the next one should find them."""
    guests = Pair(park.web(), park.db())
    guest.create(*(each for each in (guests.web, guests.db) if each.domid is None))
    return guests


@pytest.fixture
def web(pair: Pair) -> Guest:
    """web1, the guest that the scenarios are about."""
    return pair.web


@pytest.fixture
def db(pair: Pair) -> Guest:
    """db1, in good standing."""
    return pair.db
