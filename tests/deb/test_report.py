"""The pages of `xenbw report --html`, as systemd has them written in the service's sandbox."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deb import package
from tests.support.pace import until

SERVICE = "xenbw-report.service"
CONFIG = Path("/etc/xenbw/xenbw.toml.d/report.toml")
TIMER = "xenbw-report.timer"
PAGES = Path("/srv/pages")
PAGE = Path(__file__).parents[2] / "docs/pages.md"
WWW = Path("/var/www")


def configure(lines: str) -> None:
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(lines)


@contextmanager
def every_two_seconds() -> Iterator[None]:
    """Let the timer run the service so often, and not each five minutes."""
    folder = Path(f"/run/systemd/system/{TIMER}.d")
    folder.mkdir(parents=True)
    (folder / "test.conf").write_text("[Timer]\nOnCalendar=*:*:0/2\nAccuracySec=1s\n")
    package.run("systemctl", "daemon-reload")
    package.run("systemctl", "restart", TIMER)
    yield
    (folder / "test.conf").unlink()
    folder.rmdir()
    package.run("systemctl", "daemon-reload")


@pytest.fixture
def configured(installed: None) -> Iterator[None]:
    """A host with a VM, and with a folder for its pages."""
    package.await_running()
    package.run("xenbw-addvm", "web1", "--limit", "1GB", "--force")
    configure(f'[report]\ndir = "{PAGES}"\n')
    yield
    shutil.rmtree(PAGES, ignore_errors=True)


def test_the_timer_of_a_new_package_writes_the_pages_once_a_folder_is_set(installed: None) -> None:
    assert package.unit("ActiveState", "UnitFileState", name=TIMER) == ["active", "enabled"]
    package.await_running()
    package.run("systemctl", "start", SERVICE)
    assert package.unit("Result", name=SERVICE) == ["success"]
    assert not PAGES.exists()
    try:
        configure(f'[report]\ndir = "{PAGES}"\n')
        with every_two_seconds():
            assert until((PAGES / "index.html").exists, 60)
    finally:
        shutil.rmtree(PAGES, ignore_errors=True)


def test_the_pages_outlive_a_purge_and_the_timer_does_not(configured: None) -> None:
    package.run("systemctl", "start", SERVICE)
    package.run("dpkg", "--purge", "xenbw")
    assert (PAGES / "vm/web1.html").exists()
    assert not Path("/var/lib/xenbw").exists()
    assert package.unit("LoadState", name=TIMER) == ["not-found"]


def test_the_service_writes_the_pages(configured: None) -> None:
    package.run("systemctl", "start", SERVICE)
    link = Path(package.run("xenbw", "report", "--link", "web1").stdout.strip())
    assert link.parent == PAGES / "t"
    for page in (PAGES / "index.html", PAGES / "vm/web1.html", link, link.with_suffix(".json")):
        assert "web1" in page.read_text()
        assert oct(page.stat().st_mode & 0o777) == "0o644"
    assert oct(Path("/var/lib/xenbw/report.key").stat().st_mode & 0o777) == "0o600"


def test_the_commands_of_the_page_about_the_pages_write_and_name_them(installed: None) -> None:
    package.await_running()
    package.run("xenbw-addvm", "web1", "--limit", "1GB", "--force")
    lines = re.findall(r"^ {4}((?:mkdir|printf|systemctl|xenbw) .*)$", PAGE.read_text(), re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["mkdir", "printf", "systemctl", "xenbw"]
    WWW.mkdir()
    try:
        said = [package.run("sh", "-c", line).stdout for line in lines]
        assert (WWW / "xenbw/index.html").exists()
        assert Path(said[-1].strip()).parent == WWW / "xenbw/t"
    finally:
        shutil.rmtree(WWW)


def test_a_folder_that_cannot_be_made_is_one_line_in_the_journal(configured: None) -> None:
    configure('[report]\ndir = "/srv/missing/pages"\n')
    package.run("systemctl", "start", SERVICE, check=False)
    assert package.unit("Result", name=SERVICE) == ["exit-code"]
    said = package.run("journalctl", "-u", SERVICE, "-o", "cat", "--no-pager").stdout
    assert "xenbw: /srv/missing/pages: No such file or directory (create the folder above it first)\n" in said
    package.run("systemctl", "reset-failed", SERVICE)
