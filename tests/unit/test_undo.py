"""What takes all blocks away when the package is removed: shell from the registry, in the package's postrm."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.host import REPO
from xenbw.blocks import registry

POSTRM, PRERM = REPO / "debian" / "xenbw.postrm", REPO / "debian" / "xenbw.prerm"
HARMLESS = ("cat", "grep", "mkdir", "sleep", "stat", "timeout")
CHANGING = ("ip", "nft", "rm", "tc")
# Whatever other interfaces the machine has, it has this one.
LOOPBACK = "1"


def postrm() -> str:
    """The script as the build writes it (debian/rules)."""
    text = POSTRM.read_text()
    assert text.count("\n#UNDO#\n") == 1
    return text.replace("#UNDO#\n", registry.undo())


class Removal:
    """A removal of the package whose programs change nothing, but are noted in the order in which they are called.

    run_dir: what /run/xenbw is to the scripts. init: the root of process 1.
    """

    def __init__(self, directory: Path) -> None:
        self._directory, self._called = directory, directory / "called"
        self.run_dir = directory / "run" / "xenbw"
        self.init = Path("/")
        self._bin = directory / "bin"
        self._bin.mkdir()
        for name in HARMLESS:
            (self._bin / name).symlink_to(shutil.which(name) or name)
        for name in CHANGING:
            self.stub(name)

    def stub(self, name: str) -> None:
        """Note calls of this program instead of running it."""
        program = self._bin / name
        program.unlink(missing_ok=True)
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{self._called}\n')
        program.chmod(0o755)

    def run(self, script: str, call: str, **env: str) -> list[str]:
        """Run a maintainer script as dpkg does. Returns the programs that were called."""
        self._called.write_text("")
        places = {"/run/xenbw": self.run_dir, "/proc/1/root": self.init, "/usr/bin/python3": self._python()}
        for place, instead in places.items():
            script = script.replace(place, str(instead))
        argv = ["/bin/sh", "-c", script, "script", call]
        subprocess.run(argv, env={"PATH": str(self._bin), **env}, check=True, timeout=60)
        return self._called.read_text().splitlines()

    def _python(self) -> Path:
        """Debian's Python, with the package installed: this tree. It takes no module from anywhere else."""
        python = self._directory / "python"
        python.write_text(
            f'#!/bin/sh\n[ "$1 $2" = "-I -B" ] || exit 1\nshift\nPYTHONPATH={REPO} exec {sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        return python


def mark(path: Path, content: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@contextmanager
def hook(seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """A hook that runs for so long."""
    with subprocess.Popen(["/usr/lib/xenbw/vif-hook", str(seconds)], executable=shutil.which("sleep")) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def removal(tmp_path: Path) -> Removal:
    return Removal(tmp_path)


def test_each_block_tells_how_it_is_taken_away() -> None:
    undo = registry.undo()
    told = [line[2:] for line in undo.splitlines() if line.startswith("# ") and line[2:] in registry.REGISTRY]
    assert [*told, "opening"] == list(registry.REGISTRY)


def test_the_script_is_sound(tmp_path: Path) -> None:
    script = tmp_path / "postrm"
    script.write_text(postrm())
    subprocess.run(["shellcheck", script], check=True)


@pytest.mark.parametrize(("content", "ours"), [(None, False), ("", False), ("clsact\n", True)])
def test_a_drop_goes_even_if_its_mark_is_lost_and_a_clsact_only_if_xenbw_made_it(
    removal: Removal, content: str | None, ours: bool
) -> None:
    if content is not None:
        mark(removal.run_dir / "dropped" / LOOPBACK, content)
    called = removal.run(postrm(), "remove")
    drops = {f"tc filter del dev lo {way} prio 1 handle 0x7862 bpf" for way in ("ingress", "egress")}
    assert (drops <= {*called}, "tc qdisc del dev lo clsact" in called) == (True, ours)


def test_the_blocks_go_that_are_marked_in_the_folder_that_the_configuration_names(
    removal: Removal, tmp_path: Path
) -> None:
    other = tmp_path / "another folder"
    (tmp_path / "xenbw.toml").write_text(f'[daemon]\nrun_dir = "{other}"\n')
    removal.run(PRERM.read_text(), "remove", XENBW_CONFIG=str(tmp_path / "xenbw.toml"))
    mark(other / "lowered" / LOOPBACK)
    called = removal.run(postrm(), "remove")
    assert "ip link set dev lo up" in called
    assert {f"rm -rf {other}/{marks}" for marks in ("dropped", "lowered", "latched")} <= {*called}
    assert {f"rm -f {folder}/over" for folder in (other, removal.run_dir)} <= {*called}


def test_a_configuration_that_cannot_be_read_does_not_stop_the_removal(removal: Removal, tmp_path: Path) -> None:
    (tmp_path / "xenbw.toml").write_text("run_dir")
    removal.run(PRERM.read_text(), "remove", XENBW_CONFIG=str(tmp_path / "xenbw.toml"))
    mark(removal.run_dir / "lowered" / LOOPBACK)
    called = removal.run(postrm(), "remove")
    assert called.count("ip link set dev lo up") == called.count(f"rm -f {removal.run_dir}/over") == 1


def test_a_removal_in_a_chroot_takes_only_files(removal: Removal, tmp_path: Path) -> None:
    removal.init = tmp_path
    called = [*removal.run(postrm(), "remove"), *removal.run(postrm(), "purge")]
    assert called == [
        "rm -f /var/lib/prometheus/node-exporter/xenbw.prom",
        "rm -rf /usr/lib/python3/dist-packages/xenbw",
        "rm -rf /etc/xenbw /var/lib/xenbw",
    ]


def test_a_removal_that_dpkg_does_in_another_root_takes_only_files_there(removal: Removal) -> None:
    called = [*removal.run(postrm(), "remove", DPKG_ROOT="/srv/x"), *removal.run(postrm(), "purge", DPKG_ROOT="/srv/x")]
    assert called == [
        "rm -f /srv/x/var/lib/prometheus/node-exporter/xenbw.prom",
        "rm -rf /srv/x/usr/lib/python3/dist-packages/xenbw",
        "rm -rf /srv/x/etc/xenbw /srv/x/var/lib/xenbw",
    ]


@pytest.mark.parametrize("init", ["/", "/nonexistent"])
def test_a_removal_in_the_root_of_process_1_or_where_it_is_not_shown_releases_the_guests(
    removal: Removal, init: str
) -> None:
    removal.init = Path(init)
    assert "nft delete table netdev xenbw" in removal.run(postrm(), "remove")
    assert f"rm -rf {removal.run_dir}" in removal.run(postrm(), "purge")


def test_a_hook_that_is_running_ends_before_its_blocks_are_removed(removal: Removal) -> None:
    with hook(1) as running:
        assert "nft delete table netdev xenbw" in removal.run(postrm(), "remove")
        assert running.poll() == 0


def test_a_hook_that_hangs_holds_the_removal_up_for_three_seconds_at_most(removal: Removal) -> None:
    removal.stub("sleep")
    with hook(60) as running:
        called = removal.run(postrm(), "remove")
        assert running.poll() is None
    assert called[:30] == ["sleep 0.1"] * 30
    assert called[30] == "nft delete table netdev xenbw"
