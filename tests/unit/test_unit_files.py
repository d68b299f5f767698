"""The units, checked by systemd's own tools, which need no running systemd."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xenbw.config import Settings

UNITS = Path(__file__).parents[2] / "etc" / "systemd"
DAEMON = UNITS / "xenbwd.service"
REPORT, TIMER = UNITS / "xenbw-report.service", UNITS / "xenbw-report.timer"
IPTABLES = UNITS / "iptables.conf"  # a drop-in of the package
FIREWALLS = {"nftables.service", "netfilter-persistent.service", "firewalld.service", "ufw.service"}

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd's tools")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False)


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    # Ignore missing manual pages.
    return analyze("verify", "--man=no", "--recursive-errors=no", unit)


def listed(setting: str, unit: Path = DAEMON) -> set[str]:
    """All values of this setting in a unit."""
    lines = re.findall(rf"^{setting}=(.*)$", unit.read_text(), re.MULTILINE)
    return {word for line in lines for word in line.split()}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of units on a host that has the programs which they run."""
    for unit in UNITS.glob("xenbw*"):
        (tmp_path / unit.name).write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text()))
    return tmp_path


def renamed(unit: Path) -> Path:
    """The unit under a name for which this machine has no drop-ins."""
    return unit.rename(unit.with_name(f"test-{unit.name}"))


@pytest.mark.parametrize("name", [unit.name for unit in UNITS.glob("xenbw*")])
def test_systemd_finds_no_fault_in_a_unit(installed: Path, name: str) -> None:
    done = verify(installed / name)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("name", ["xentop.conf", "iptables.conf"])
def test_systemd_finds_no_fault_in_a_drop_in(installed: Path, name: str) -> None:
    folder = installed / f"{DAEMON.name}.d"
    folder.mkdir()
    shutil.copy(UNITS / name, folder)
    done = verify(installed / DAEMON.name)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_systemd_would_report_an_unknown_setting(installed: Path) -> None:
    unit = installed / DAEMON.name
    unit.write_text(unit.read_text().replace("ProtectClock=", "ProtectClocks="))
    done = verify(unit)
    assert "ProtectClocks" in done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(("points", "drop_in"), [(18, None), (20, IPTABLES)])
def test_the_daemon_s_exposure_is_low(installed: Path, points: int, drop_in: Path | None) -> None:
    unit = renamed(installed / DAEMON.name)
    if drop_in is not None:
        (installed / f"{unit.name}.d").mkdir()
        shutil.copy(drop_in, installed / f"{unit.name}.d")
    done = analyze("security", "--offline=true", f"--threshold={points}", unit)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", sorted(UNITS.glob("xenbw*.service")), ids=lambda unit: unit.name)
def test_the_unit_gives_the_reason_for_each_setting_that_is_left_out(unit: Path, installed: Path) -> None:
    found = json.loads(analyze("security", "--offline=true", "--json=short", renamed(installed / unit.name)).stdout)
    comments = " ".join(line for line in unit.read_text().splitlines() if line.startswith("#"))
    left_open = [item["name"] for item in found if item.get("exposure")]
    assert len(left_open) > 5
    assert [name for name in left_open if not any(word in comments for word in _settings(name))] == []


def _settings(name: str) -> list[str]:
    """What may be written of it: "User=/DynamicUser=" is either of these settings, "CapabilityBoundingSet=~CAP_(A|B)"
    one of these values."""
    setting, _, value = name.partition("=~")
    if not value:
        return re.findall(r"\w+=", setting)
    prefix, _, choices = value.partition("(")
    return [setting + "=", *(prefix + choice for choice in choices.rstrip(")").split("|"))]


def test_the_pages_are_written_after_each_five_minutes() -> None:
    assert listed("OnCalendar", TIMER) == {"*:0/5:10"}
    done = analyze("calendar", "*:0/5:10")
    assert done.returncode == 0, done.stderr


def test_the_service_of_the_pages_may_write_where_an_admin_may_want_them_and_has_no_power() -> None:
    assert listed("ProtectSystem", REPORT) == {"full"}  # strict would need a drop-in for each folder
    assert listed("CapabilityBoundingSet", REPORT) == set()
    assert listed("PrivateNetwork", REPORT) == {"yes"}
    assert listed("ExecStart", REPORT) == {"/usr/bin/xenbw", "report", "--html"}
    done = analyze("security", "--offline=true", "--threshold=10", REPORT)
    assert done.returncode == 0, done.stdout


def test_metering_never_waits_for_the_pages() -> None:
    assert listed("Nice", REPORT) == {"19"}
    assert listed("IOSchedulingClass", REPORT) == {"idle"}
    assert listed("Before", REPORT) == set()


def test_the_daemon_starts_after_the_firewall_and_xenstored_and_before_the_guests() -> None:
    assert "xendomains.service" in listed("Before")
    assert listed("After") >= {"xen.service", "xenstored.service", *FIREWALLS}


def test_a_reload_of_a_firewall_also_reloads_the_daemon() -> None:
    # systemd.unit(5): the reload is propagated, and After= makes it wait for the firewall's.
    assert listed("ReloadPropagatedFrom") == FIREWALLS
    assert listed("After") >= FIREWALLS


def test_the_modules_that_the_sandboxed_daemon_cannot_load_are_loaded_before_it() -> None:
    modules = {"modprobe@iptable_filter.service", "modprobe@ip6table_filter.service"}
    assert listed("Wants", IPTABLES) == modules
    assert listed("After", IPTABLES) >= modules


def test_without_the_drop_in_for_iptables_the_daemon_asks_for_nothing_of_it() -> None:
    assert listed("Wants") == set()
    assert listed("CapabilityBoundingSet") == {"CAP_NET_ADMIN"}
    assert listed("CapabilityBoundingSet", IPTABLES) == {"CAP_NET_RAW"}


def test_the_guests_wait_ten_seconds_for_the_daemon_at_most() -> None:
    assert listed("TimeoutStartSec") == {"10"}


def test_the_daemon_needs_no_program_that_a_small_host_may_lack() -> None:
    programs = {word for key in ("ExecStart", "ExecReload") for word in listed(key) if word.startswith("/")}
    assert programs == {"/usr/bin/xenbwd", "/bin/sh"}


def test_stopping_the_daemon_runs_nothing_that_could_remove_blocks() -> None:
    assert listed("ExecStop") | listed("ExecStopPost") == set()


def test_a_host_short_of_memory_ends_other_processes_first_and_a_leak_is_bounded() -> None:
    (score,) = listed("OOMScoreAdjust")
    assert -1000 < int(score) < 0
    assert listed("MemoryHigh") != set()
    assert listed("MemoryMax") == set()  # it would end the daemon
    (tasks,) = listed("TasksMax")
    assert 16 <= int(tasks) <= 256


def test_the_daemon_cannot_reach_the_socket_on_which_systemd_takes_orders() -> None:
    assert "-/run/systemd/private" in listed("InaccessiblePaths")


def test_the_daemon_may_write_the_metrics_and_starts_without_their_folder() -> None:
    default = Settings().metrics.file
    assert default is not None
    assert f"-{default.parent}" in listed("ReadWritePaths")
