"""The package as an admin uses it, and its traces on the system."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.pace import patient, until

UNIT = "xenbwd.service"
CONFIG = Path("/etc/xenbw/xenbw.toml")
LEDGER = Path("/var/lib/xenbw/ledger.db")
RELEASES = [Path(__file__).parent / "previous" / name for name in ("xenbw_0.1.0_all.deb", "xenbw_0.2.0-1_all.deb")]
PREVIOUS = RELEASES[0]
_BUILT = Path("/srv/dist")


def built() -> Path:
    """The package under test."""
    (deb,) = _BUILT.glob("xenbw_*_all.deb")
    return deb


def run(*argv: str | Path, check: bool = True, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command with this input; if it fails, show its output."""
    done = subprocess.run(patient(argv), input=given, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0 or not check, f"{argv}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def apt(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """apt-get, without recommended packages, and without a network to fetch others."""
    return run("apt-get", "-q", "-y", "--no-install-recommends", "--allow-downgrades", *arguments, check=check)


def state() -> str:
    """dpkg's state of the package: "ii", "iU", "rc", or "" for unknown."""
    return run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "xenbw", check=False).stdout.strip()


def version() -> str:
    return run("dpkg-query", "-W", "-f", "${Version}", "xenbw").stdout


def unit(*properties: str, name: str = UNIT) -> list[str]:
    """These properties of the unit, as systemd shows them."""
    lines = run("systemctl", "show", name, *(f"--property={wanted}" for wanted in properties)).stdout.splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return [values[wanted] for wanted in properties]


def main_pid() -> int:
    return int(unit("MainPID")[0])


def running() -> bool:
    return unit("ActiveState", "SubState") == ["active", "running"]


def await_running(seconds: float = 30) -> None:
    assert until(running, seconds), run("systemctl", "status", UNIT, check=False).stdout


def units() -> list[str]:
    """The systemd units that the package brings."""
    listed = run("dpkg", "-L", "xenbw").stdout.splitlines()
    return [path for path in listed if path.rpartition("/")[0].endswith("/lib/systemd/system") and _is_unit(path)]


def _is_unit(path: str) -> bool:
    """Whether it is a unit, and not the folder of a unit's drop-ins."""
    return Path(path).suffix not in ("", ".d")


def journal() -> str:
    """The daemon's log since the machine booted."""
    return run("journalctl", "--unit", UNIT, "--output=cat", "--no-pager").stdout


def rules() -> list[str]:
    """The machine's legacy filter tables."""
    return [
        line for command in ("iptables-legacy", "ip6tables-legacy") for line in run(command, "-S").stdout.splitlines()
    ]


# Files that apt, dpkg, systemd and this test write for themselves, and other packages' bytecode.
_NOT_OURS = (
    "/dev /proc /srv /sys /tmp /root /run/systemd /run/udev /run/log /var/cache /var/lib/apt /var/lib/dpkg /var/log"
    " /var/lib/systemd/catalog /var/tmp"
).split()


def files() -> list[str]:
    """Every file with its mode and, for a link, its target."""
    prune = [word for path in _NOT_OURS for word in ("-path", path, "-o")]
    argv = ["find", "/", "(", *prune, "-name", "__pycache__", "-not", "-path", "*/xenbw/*", ")", "-prune", "-o"]
    return sorted(run(*argv, "-printf", "%p %m %l\n").stdout.splitlines())


def snapshot() -> dict[str, Sequence[str]]:
    """Everything that a package may leave behind."""
    units = run("systemctl", "list-unit-files", "--no-legend", "--plain").stdout.splitlines()
    tables = run("nft", "list", "tables", check=False).stdout.splitlines()
    accounts = Path("/etc/passwd").read_text().splitlines() + Path("/etc/group").read_text().splitlines()
    loaded = run("systemctl", "list-units", "--all", "--no-legend", "--plain").stdout.splitlines()
    return {
        # The rules first: reading them creates iptables' lock file.
        "rules": rules(),
        "files": files(),
        "nft tables": tables,
        "unit files": units,
        "units": [line.split()[0] for line in loaded if "xenbw" in line],
        "accounts": accounts,
    }
