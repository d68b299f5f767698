"""The admin's first steps: add the guests that xl lists, and check that all is well."""

from __future__ import annotations

import json

import pytest

from rig import package, shell
from rig.guest import Guest
from rig.park import Pair


@pytest.fixture(scope="module", autouse=True)
def answer(pair: Pair) -> str:
    """The output of `xenbw-addvm --all`."""
    return shell.run("xenbw-addvm", "--all", "--limit", "1TB")


@pytest.mark.parametrize("name", ["web1", "db1"])
def test_addvm_finds_each_guest_with_its_config_file_and_addresses(answer: str, name: str) -> None:
    [line] = [line for line in answer.splitlines() if line.startswith(f"{name}: added")]
    guest = {"web1": "10.77.0.11 fd77::11", "db1": "10.77.0.12 fd77::12"}[name]
    assert f"ips {guest}, config file /etc/xen/{name}.cfg" in line


def test_addvm_refuses_a_name_that_xl_does_not_list() -> None:
    assert shell.status("xenbw-addvm", "nobody", "--limit", "1TB") == 1


def test_list_shows_the_guests_that_xl_lists() -> None:
    listed = {domain["config"]["c_info"]["name"] for domain in json.loads(shell.run("xl", "list", "-l"))}
    running = {name for name, vm in package.listing().items() if vm["running"]}
    assert running == listed - {"Domain-0"}


def test_show_has_the_guests_domid_mac_and_addresses(web: Guest) -> None:
    [binding] = [binding for binding in package.show("web1")["bindings"] if binding["ended_at"] is None]
    card = web.cards[0]
    assert (binding["domid"], binding["mac"], binding["ips"]) == (web.domid, card.mac, list(card.ips))
    assert binding["bridge"] == "xenbr0"


def test_status_shows_no_problem() -> None:
    assert package.status()["problems"] == []


@pytest.mark.usefixtures("pair")
def test_doctor_proves_meter_and_blocks_with_packets_and_finds_no_fault() -> None:
    findings = json.loads(package.xenbw("doctor", "--json", "--on", "xenbr0"))["findings"]
    assert [finding for finding in findings if finding["level"] == "FAIL"] == []
    passed = {finding["topic"] for finding in findings if finding["level"] == "PASS"}
    assert {"hook", "meter", "seal", "throttle", "null route"} <= passed
