"""The units that run the mail system's sendmail and the admin's command, read by systemd's own tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xenbw.config import Settings
from xenbw.tell import bell

UNITS = Path(__file__).parents[2] / "etc" / "systemd"
SERVICE, PATH = UNITS / "xenbw-notify.service", UNITS / "xenbw-notify.path"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd's tools")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = ["systemd-analyze", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env={"PATH": "/bin:/usr/bin"})


def setting(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)


def words(name: str) -> list[str]:
    """The names of which one must be in a comment about this item of systemd-analyze."""
    key, _, value = name.partition("=~")
    if not value.startswith("CAP_"):
        return re.findall(r"\w+=", f"{key}=")
    prefix, _, choices = value.partition("(")
    return [f"{prefix}{choice}".rstrip("*") for choice in choices.rstrip(")").split("|")]


def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    shutil.copy(PATH, tmp_path)
    service = tmp_path / SERVICE.name
    service.write_text(SERVICE.read_text().replace("/usr/lib/xenbw/notify", "/bin/true"))
    done = analyze("verify", "--man=no", "--recursive-errors=no", service, tmp_path / PATH.name)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


def test_the_daemon_creates_and_the_service_first_removes_the_file_that_starts_the_service() -> None:
    file = str(bell.path_in(Settings().daemon.run_dir))
    assert setting(PATH, "PathExists") == [file]
    assert setting(SERVICE, "ExecStartPre") == [f"/bin/rm -f {file}"]


def test_no_number_of_starts_makes_the_unit_fail() -> None:
    assert setting(SERVICE, "StartLimitIntervalSec") == ["0"]


def test_programs_may_change_their_user_and_group() -> None:
    assert setting(SERVICE, "NoNewPrivileges") == ["no"]
    # Without it systemd implies NoNewPrivileges=yes (systemd.exec(5)).
    assert setting(SERVICE, "User") == []
    dropped = {word for line in setting(SERVICE, "CapabilityBoundingSet") for word in line.lstrip("~").split()}
    assert not dropped & {"CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_CHOWN"}
    assert all(line.startswith("~") for line in setting(SERVICE, "CapabilityBoundingSet"))


def test_processes_that_a_program_leaves_are_not_killed_with_the_service() -> None:
    assert setting(SERVICE, "KillMode") == ["process"]


def test_the_unit_gives_the_reason_for_each_setting_that_is_left_out() -> None:
    found = json.loads(analyze("security", "--offline=true", "--json=short", SERVICE).stdout)
    comments = " ".join(line for line in SERVICE.read_text().splitlines() if line.startswith("#"))
    open_items = [item["name"] for item in found if item.get("exposure")]
    assert len(open_items) > 5
    assert [name for name in open_items if not any(word in comments for word in words(name))] == []
