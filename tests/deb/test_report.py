"""The pages of `xenbw report --html`, as systemd has them written in the service's sandbox."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deb import package

SERVICE = "xenbw-report.service"
CONFIG = Path("/etc/xenbw/xenbw.toml.d/report.toml")
PAGES = Path("/srv/pages")


@pytest.fixture
def configured(installed: None) -> Iterator[None]:
    """A host with a VM, and with a folder for its pages."""
    package.await_running()
    package.run("xenbw-addvm", "web1", "--limit", "1GB", "--force")
    CONFIG.parent.mkdir()
    CONFIG.write_text(f'[report]\ndir = "{PAGES}"\n')
    yield
    shutil.rmtree(PAGES, ignore_errors=True)


def test_the_service_writes_the_pages(configured: None) -> None:
    package.run("systemctl", "start", SERVICE)
    link = Path(package.run("xenbw", "report", "--link", "web1").stdout.strip())
    assert link.parent == PAGES / "t"
    for page in (PAGES / "index.html", PAGES / "vm/web1.html", link, link.with_suffix(".json")):
        assert "web1" in page.read_text()
        assert oct(page.stat().st_mode & 0o777) == "0o644"
    assert oct(Path("/var/lib/xenbw/report.key").stat().st_mode & 0o777) == "0o600"


def test_a_folder_that_cannot_be_made_is_one_line_in_the_journal(configured: None) -> None:
    CONFIG.write_text('[report]\ndir = "/srv/missing/pages"\n')
    package.run("systemctl", "start", SERVICE, check=False)
    assert package.unit("Result", name=SERVICE) == ["exit-code"]
    said = package.run("journalctl", "-u", SERVICE, "-o", "cat", "--no-pager").stdout
    assert "xenbw: /srv/missing/pages: No such file or directory (create the folder above it first)\n" in said
    package.run("systemctl", "reset-failed", SERVICE)
