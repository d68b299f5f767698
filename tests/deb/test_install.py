"""The system after `apt install ./xenbw_*.deb`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deb import package

HOOK = "/etc/xen/scripts/vif-post.d/xenbw.hook"
CONFFILES = {HOOK, "/etc/default/xenbw", "/etc/xenbw/xenbw.toml"}


@pytest.mark.smoke
def test_the_package_needs_only_its_dependencies_and_reports_only_that_it_is_enabled(clean: None) -> None:
    done = package.apt("install", package.built())
    assert re.findall(r"^Setting up (\S+)", done.stdout, re.MULTILINE) == ["xenbw"]
    assert "Created symlink" in done.stderr or "Created symlink" in done.stdout
    assert "arning" not in done.stdout + done.stderr
    assert package.version() in package.run("dpkg", "-s", "xenbw").stdout


@pytest.mark.smoke
def test_the_daemon_runs_is_enabled_and_systemctl_status_shows_its_state(untouched: None) -> None:
    assert package.unit("ActiveState", "UnitFileState") == ["active", "enabled"]
    status = package.run("systemctl", "status", package.UNIT).stdout
    assert "Traffic metering and quotas for Xen guests" in status
    assert 'Status: "' in status
    assert package.unit("NRestarts", "Result") == ["0", "success"]


def test_the_delivery_of_messages_starts_only_with_the_first_message(untouched: None) -> None:
    watched = package.unit("ActiveState", "UnitFileState", name="xenbw-notify.path")
    assert watched == ["active", "enabled"]
    assert package.unit("ExecMainStartTimestamp", "NRestarts", name="xenbw-notify.service") == ["", "0"]


def test_the_timer_of_the_pages_runs_and_writes_only_what_is_configured(untouched: None) -> None:
    assert package.unit("ActiveState", "UnitFileState", name="xenbw-report.timer") == ["active", "enabled"]
    package.run("systemctl", "start", "xenbw-report.service")
    assert package.unit("Result", name="xenbw-report.service") == ["success"]
    assert not Path("/var/lib/xenbw/report.key").exists()


@pytest.mark.parametrize("command", ["xenbw", "xenbwd"])
def test_the_commands_have_the_packages_version(untouched: None, command: str) -> None:
    assert package.run(command, "--version").stdout == f"{command} {package.version().partition('-')[0]}\n"


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        (HOOK, 0o755),
        ("/usr/lib/xenbw/notify", 0o755),
        ("/usr/lib/xenbw/vif-group", 0o755),
        ("/usr/lib/xenbw/vif-hook", 0o755),
        ("/usr/bin/xenbw", 0o755),
        ("/usr/bin/xenbw-addvm", 0o755),
        ("/usr/bin/xenbwd", 0o755),
        ("/etc/xenbw/xenbw.toml", 0o640),
        ("/etc/default/xenbw", 0o644),
        ("/lib/systemd/system/xenbw-notify.path", 0o644),
        ("/lib/systemd/system/xenbw-notify.service", 0o644),
        ("/lib/systemd/system/xenbw-report.service", 0o644),
        ("/lib/systemd/system/xenbw-report.timer", 0o644),
        ("/lib/systemd/system/xenbwd.service", 0o644),
        ("/lib/systemd/system/xenbwd.service.d/iptables.conf", 0o644),
        ("/lib/udev/rules.d/60-xenbw.rules", 0o644),
        ("/usr/lib/systemd/catalog/xenbw.catalog", 0o644),
        ("/usr/lib/tmpfiles.d/xenbw.conf", 0o644),
        ("/usr/share/bash-completion/completions/xenbw", 0o644),
        ("/usr/share/bash-completion/completions/xenbw-addvm", 0o644),
        ("/usr/share/doc/xenbw/examples/xenbw-grafana.json", 0o644),
        ("/usr/share/doc/xenbw/examples/xenbw.rules.yml", 0o644),
        ("/usr/share/doc/xenbw/examples/xentop.conf", 0o644),
        ("/usr/share/man/man1/xenbw.1.gz", 0o644),
        ("/usr/share/man/man1/xenbw-addvm.1.gz", 0o644),
        ("/usr/share/man/man5/xenbw.toml.5.gz", 0o644),
        ("/usr/share/man/man8/xenbwd.8.gz", 0o644),
        ("/run/xenbw", 0o755),
        ("/var/lib/xenbw", 0o750),
        ("/var/lib/xenbw/ledger.db", 0o600),
    ],
)
def test_files_are_readable_only_for_the_users_that_need_them(untouched: None, path: str, mode: int) -> None:
    found = Path(path).stat()
    assert (oct(found.st_mode & 0o7777), found.st_uid, found.st_gid) == (oct(mode), 0, 0)


def test_dpkg_keeps_files_that_an_admin_edited(untouched: None) -> None:
    listed = package.run("dpkg-query", "-W", "-f", "${Conffiles}", "xenbw").stdout
    assert {line.split()[0] for line in listed.splitlines() if line.strip()} == CONFFILES


@pytest.mark.smoke
def test_systemd_finds_no_fault_in_the_units(untouched: None) -> None:
    done = package.run("systemd-analyze", "verify", "--man=no", *package.units())
    assert done.stdout + done.stderr == ""


def test_the_daemons_sandbox_is_as_tight_as_before(untouched: None) -> None:
    done = package.run("systemd-analyze", "security", "--threshold=20", package.UNIT, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_python_finds_the_packages_metadata(untouched: None) -> None:
    program = "from importlib.metadata import version; print(version('xenbw'))"
    assert package.run("/usr/bin/python3", "-I", "-c", program).stdout.strip() == package.version().partition("-")[0]
