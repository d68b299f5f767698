"""The networks that blocked VMs may reach, in null routes and in the hook's file."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from xenbw.allow import Exceptions
from xenbw.blocks.restore import chain_text, stands
from xenbw.ledger import bindings
from xenbw.ledger.schema import MIGRATIONS
from xenbw.rundir import overfile

ADDRESSES = {"192.0.2.9": "web1", "192.0.2.10": "web2", "2001:db8::9": "web1"}
ALLOW = Exceptions(["198.51.100.1/32", "2001:db8:1::/64"], {"web1": ["198.51.100.2/32"], "web3": []})


def rules(version: int, allow: Exceptions, addresses: dict[str, str] = ADDRESSES) -> list[str]:
    """The chain's rules, shortened."""
    text = chain_text(version, addresses, allow, jumps_exist=False).decode()
    lines = [line.removeprefix("-A XENBW ") for line in text.splitlines() if line.startswith("-A XENBW ")]
    return [line.split(" -m ")[0] + " " + line.split(" -j ")[1].split()[0] for line in lines]


def test_a_vm_with_its_own_list_is_let_through_by_that_list_alone() -> None:
    assert rules(4, ALLOW) == [
        "-s 192.0.2.9/32 -d 198.51.100.2/32 RETURN",
        "-s 198.51.100.2/32 -d 192.0.2.9/32 RETURN",
        "-s 192.0.2.9/32 REJECT",
        "-d 192.0.2.9/32 REJECT",
        "-s 198.51.100.1/32 RETURN",
        "-d 198.51.100.1/32 RETURN",
        "-s 192.0.2.10/32 REJECT",
        "-d 192.0.2.10/32 REJECT",
    ]
    assert rules(6, ALLOW) == ["-s 2001:db8::9/128 REJECT", "-d 2001:db8::9/128 REJECT"]


def test_a_vm_s_own_ipv6_networks_come_with_neighbour_discovery() -> None:
    found = rules(6, Exceptions(own={"web1": ["2001:db8:2::/64"]}))
    assert found[-2:] == ["-s 2001:db8::9/128 REJECT", "-d 2001:db8::9/128 REJECT"]
    assert {rule.split()[3] for rule in found[:-2:2]} == {"2001:db8:2::/64", "fe80::/10", "ff02::/16"}


def saved(version: int, allow: Exceptions) -> list[str]:
    text = chain_text(version, ADDRESSES, allow, jumps_exist=False).decode()
    own = [line for line in text.splitlines() if line.startswith("-A XENBW ")]
    return [*(f"-A {hooked} -j XENBW" for hooked in ("INPUT", "OUTPUT", "FORWARD")), *own]


def test_a_chain_whose_order_lets_a_vm_through_is_not_accepted() -> None:
    lines = saved(4, ALLOW)
    assert stands(4, ADDRESSES, ALLOW, "\n".join(lines))
    # The common list comes before the VM that has its own list.
    assert not stands(4, ADDRESSES, ALLOW, "\n".join([*lines[:3], *lines[7:9], *lines[3:7], *lines[9:]]))
    assert not stands(4, ADDRESSES, Exceptions(ALLOW.common), "\n".join(lines))


@pytest.mark.parametrize("name", ["web1", "two words", "tab\tand\nline", "naïve"])
def test_the_hook_reads_each_list(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "over")
    allow = Exceptions(["198.51.100.1/32"], {name: ["198.51.100.2/32"], "shut": []})
    overfile.write(path, "/ledger", [], [], {name: ["192.0.2.9"]}, allow=allow)
    over = overfile.read(path)
    assert over is not None
    assert over.allow == allow
    assert (over.allow.of(name), over.allow.of("shut"), over.allow.of("other")) == (
        ("198.51.100.2/32",),
        (),
        ("198.51.100.1/32",),
    )
    assert over.addresses() == {"192.0.2.9": name}


@pytest.mark.parametrize(
    ("allow", "any_at_all"),
    [
        (Exceptions(), False),
        (Exceptions(own={1: []}), False),
        (Exceptions(["a"]), True),
        (Exceptions(own={1: ["a"]}), True),
    ],
)
def test_exceptions_are_true_if_there_is_any_network(allow: Exceptions, any_at_all: bool) -> None:
    assert bool(allow) is any_at_all


@pytest.mark.parametrize(("version", "expected"), [(2, {}), (3, {"web1": ["198.51.100.2/32"]})])
def test_a_hook_also_reads_the_ledger_of_the_previous_version(version: int, expected: dict[str, list[str]]) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for script in MIGRATIONS[:version]:
            db.executescript(script)
        db.execute(f"PRAGMA user_version = {version}")
        db.execute("INSERT INTO vm (id, name, found_at, rev) VALUES (1, 'web1', '2026-03-01', 1)")
        db.execute("INSERT INTO block (vm_id, cause, reason, since, rev) VALUES (1, 'quota', 'over', '2026-03-01', 1)")
        if version == 3:
            db.execute("UPDATE vm SET allow = '198.51.100.2/32'")
        assert bindings.allowed(db) == expected
