"""What a hotplug script is told, against what a real dom0's hooks were told."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from xenbw.errors import XenbwError
from xenbw.xen.hotplug import HotplugCall, parse

ROOT = Path(__file__).parents[2]
CAPTURES = ROOT / "tests" / "data" / "xen-4.17"

ONLINE = {
    "command": "online",
    "type_if": "vif",
    "XENBUS_PATH": "backend/vif/7/0",
    "dev": "web0",
    "vif": "vif7.0",
    "bridge": "xenbr0",
    "ip": "10.77.0.23",
}


def captured(life: str) -> list[dict[str, str]]:
    """The variables each hook of a real dom0 saw in that event, without those that were unset."""
    log = (CAPTURES / life / "hooks.log").read_text(errors="replace")
    calls = re.findall(r"^argv0=.*? (command=.*) ppid=", log, re.MULTILINE)
    assert calls
    return [{key: value for key, value in re.findall(r"(\w+)=(\S+)", call) if value != "<unset>"} for call in calls]


def vif(command: str, domid: int, devid: int, ips: str, interface: str | None = None) -> HotplugCall:
    return HotplugCall(command, "vif", domid, devid, interface or f"vif{domid}.{devid}", "xenbr0", ips)


@pytest.mark.parametrize(
    ("life", "expected"),
    [
        ("life-create", [vif("online", 2, 0, "10.77.0.12"), vif("online", 2, 1, "10.77.0.13")]),
        ("life-network-attach", [vif("online", 1, 1, "10.77.0.41")]),
        ("life-network-detach", [vif("offline", 1, 1, "10.77.0.41")]),
        ("life-vifname-destroy", [vif("offline", 7, 0, "10.77.0.23", "web0")]),
        ("life-xl-destroy", [vif("offline", 5, 0, "10.77.0.14")]),
        ("life-xl-shutdown", [vif("offline", 4, 0, "10.77.0.13")]),
        (
            "life-vifname-create",
            [
                vif("online", 6, 1, "10.77.0.22"),
                vif("online", 6, 0, "10.77.0.21"),
                vif("online", 7, 0, "10.77.0.23", "web0"),
            ],
        ),
        (
            "life-xl-reboot",
            [
                vif("offline", 2, 1, "10.77.0.13"),
                vif("offline", 2, 0, "10.77.0.12"),
                vif("online", 3, 1, "10.77.0.13"),
                vif("online", 3, 0, "10.77.0.12"),
            ],
        ),
    ],
)
def test_the_calls_of_a_real_dom0_are_understood(life: str, expected: list[HotplugCall]) -> None:
    assert [parse(env) for env in captured(life)] == expected


@pytest.mark.parametrize("command", ["add", "remove"])
def test_a_tap_is_the_emulated_card_of_its_vif(command: str) -> None:
    env = {"type_if": "tap", "XENBUS_PATH": "/local/domain/0/backend/vif/7/0", "dev": "vif7.0-emu"}
    assert parse({**env, "command": command}) == HotplugCall(command, "emu", 7, 0, "vif7.0-emu", None, None)


def test_without_type_if_it_is_a_vif_as_in_vif_common() -> None:
    assert parse({key: value for key, value in ONLINE.items() if key != "type_if"}).kind == "vif"


@pytest.mark.parametrize("unset", [{"bridge": "", "ip": ""}, {"bridge": "", "ip": " "}])
def test_an_empty_bridge_or_ip_is_none(unset: dict[str, str]) -> None:
    call = parse({**ONLINE, **unset})
    assert (call.bridge, call.ips) == (None, None)


def test_several_addresses_are_kept_as_written() -> None:
    assert parse({**ONLINE, "ip": "10.0.0.1 10.0.1.0/24 fd50::1"}).ips == "10.0.0.1 10.0.1.0/24 fd50::1"


@pytest.mark.parametrize(
    "nonsense",
    [
        {"command": "pause"},
        {"command": ""},
        {"command": "add"},
        {"command": "online", "type_if": "tap"},
        {"type_if": "veth"},
        {"XENBUS_PATH": ""},
        {"XENBUS_PATH": "backend/vif/7"},
        {"XENBUS_PATH": "backend/vbd/7/0"},
        {"XENBUS_PATH": "backend/vif/0/0"},
        {"XENBUS_PATH": "backend/vif/32752/0"},
        {"XENBUS_PATH": "backend/vif/-7/0"},
        {"XENBUS_PATH": "backend/vif/\N{ARABIC-INDIC DIGIT SEVEN}/0"},
        {"XENBUS_PATH": "backend/vif/7/0/../1"},
        {"XENBUS_PATH": "/local/domain/3/backend/vif/7/0"},
        {"dev": ""},
        {"dev": ".."},
        {"dev": "../../etc/x"},
        {"dev": "vif 7.0"},
        {"dev": "vif7:0"},
        {"dev": "sixteen-letters!"},
        {"bridge": "xenbr0; reboot"},
    ],
)
def test_nonsense_is_refused(nonsense: dict[str, str]) -> None:
    with pytest.raises(XenbwError):
        parse({**ONLINE, **nonsense})


def test_a_call_cannot_be_changed() -> None:
    call = parse(ONLINE)
    with pytest.raises(AttributeError):
        call.domid = 8


def test_a_call_can_be_compared_and_shown() -> None:
    assert parse(ONLINE) == parse(ONLINE)
    assert len({parse(ONLINE), parse(ONLINE)}) == 1
    assert parse(ONLINE) != parse({**ONLINE, "command": "offline"})
    assert "interface='web0'" in repr(parse(ONLINE))


def test_the_hook_imports_no_other_modules_for_it() -> None:
    program = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]); import xenbw.xen.hotplug; "
        "print(*sorted(set(sys.modules) - before))"
    )
    argv = [sys.executable, "-I", "-S", "-c", program, str(ROOT)]
    imported = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert imported == ["__future__", "xenbw", "xenbw.errors", "xenbw.xen", "xenbw.xen.hotplug"]
