"""The package is refused, before dpkg unpacks it, by a host whose Python is too old; no script runs another."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.host import REPO

PREINST = REPO / "debian" / "xenbw.preinst"


def install(tmp_path: Path, python: str | None, call: str = "install") -> subprocess.CompletedProcess[str]:
    """Run the script as dpkg does; python: what Debian's python3 does, None if there is none."""
    debians = tmp_path / "debian-python3"
    if python is not None:
        debians.write_text(f"#!/bin/sh\n{python}\n")
        debians.chmod(0o755)
    script = PREINST.read_text().replace("/usr/bin/python3", str(debians))
    argv = ["/bin/sh", "-c", script, "preinst", call]
    return subprocess.run(argv, capture_output=True, text=True, env={"PATH": str(tmp_path)}, check=False)


@pytest.mark.parametrize("call", ["install", "upgrade"])
def test_a_host_with_an_older_python_is_told_what_to_do_in_one_line(tmp_path: Path, call: str) -> None:
    done = install(tmp_path, "echo 3.9; exit 1", call)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "xenbw needs Debian 12 or later (Python 3.11), and this host has Python 3.9: upgrade the host first\n"
    )


def test_this_host_may_have_the_package(tmp_path: Path) -> None:
    done = install(tmp_path, 'exec /usr/bin/python3 "$@"')
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_host_without_python_gets_it_as_a_dependency(tmp_path: Path) -> None:
    done = install(tmp_path, None)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_failed_upgrade_is_undone_on_any_host(tmp_path: Path) -> None:
    assert install(tmp_path, "echo 3.9; exit 1", "abort-upgrade").returncode == 0


def test_an_admin_s_newer_python_does_not_help(tmp_path: Path) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\necho 3.13\n")
    (tmp_path / "python3").chmod(0o755)
    assert install(tmp_path, "echo 3.9; exit 1").returncode == 1


@pytest.mark.parametrize("script", sorted((REPO / "debian").glob("xenbw.p*[mt]")), ids=lambda script: script.suffix[1:])
def test_a_maintainer_script_runs_debian_s_python_without_the_caller_s_modules(script: Path) -> None:
    commands = re.sub(r"(?m)^ *#.*", "", script.read_text())
    calls = re.findall(r"\S*\bpython3\b(?!/dist-packages)(?: -\w+)?", commands)
    assert [call for call in calls if not call.endswith(("/usr/bin/python3 -I", "/usr/bin/python3 -ISc"))] == []
