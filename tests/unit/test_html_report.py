"""xenbw report --html and --link: the pages of a host, of its VMs and of their tenants.

The file is long: all its tests read the pages of the same host, which takes seconds to fill.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support import seeded
from tests.support.clock import utc
from tests.support.console import REPO, Console, StandIn
from tests.support.seeded import HOSTILE, NOW
from tests.support.smalldisk import SmallDisk
from xenbw.accounting import hour_of
from xenbw.cli import htmlreport, links
from xenbw.cli.site import LIST
from xenbw.ledger import usagelog, vmlog
from xenbw.ledger.ledger import Ledger
from xenbw.model import State
from xenbw.report.pages import FOLDER

# The elements without an end tag (HTML, "void elements"), and SVG's.
VOID = {"meta", "link", "path", "br", "img"}
# Their end tags may be left out.
OPEN_END = {"tr", "td", "th"}


class Page(HTMLParser):
    """A page's elements as (tag, attributes), and all its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text())
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and tag not in OPEN_END:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and tag not in OPEN_END:
            assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


class Host(seeded.Host):
    def page(self, name: str) -> Page:
        return Page(self.folder / name)

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of the host."""
    path = tmp_path_factory.mktemp("filled") / "ledger.db"
    ledger = Ledger.open(path, create=True)
    seeded.fill(ledger)
    ledger.close()
    return path


@pytest.fixture
def host(tmp_path: Path, filled: Path) -> Iterator[Host]:
    """The host with its pages written, and with a daemon."""
    found = Host(tmp_path, ledger=filled)
    with StandIn(found.console):
        found.write()
        yield found


PAGES = ("index.html", "vm/shop-frontend.html", "vm/mirror.html", "vm/new.html")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_no_script_and_names_nothing_that_a_browser_would_fetch(host: Host, name: str) -> None:
    page = host.page(name)
    assert page.all("script") == page.all("img") == page.all("iframe") == []
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert [key for _, attributes in page.elements for key in attributes if key.startswith("on")] == []
    assert re.findall(r"url\(|@import|https?:", (host.folder / name).read_text()) == []
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_by_a_screen_reader(host: Host, name: str) -> None:
    page = host.page(name)
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings))
    assert len(page.all("svg")) == len(page.all("title")) - 1 == len(page.all("desc"))
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for svg in page.all("svg"):
        assert svg["role"] == "img"
        assert set((svg["aria-labelledby"] or "").split()) <= ids
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_the_host_page_lists_the_vms_by_their_used_share(host: Host) -> None:
    text = host.page("index.html").text
    names = [guest.name for guest in seeded.GUESTS]
    by_share = sorted(names, key=text.index)
    assert by_share[:3] == ["video-7", "mirror", "db-replica"]
    assert by_share[-1].startswith("ci-runner")  # it has no limit
    assert [meter["aria-valuenow"] for meter in host.page("index.html").all("div") if "role" in meter][:2] == [
        "100",
        "100.0",
    ]


def test_the_page_of_a_vm_has_its_numbers_and_the_forecast(host: Host) -> None:
    page = host.page("vm/db-replica.html")
    assert "143 GB of 160 GB, 89.4 %" in re.sub(r"\s+", " ", page.text)
    assert "crosses its allowance Nov 20" in page.text


def test_the_table_below_a_chart_has_the_numbers_of_the_ledger(host: Host) -> None:
    text = host.page("vm/mail.html").text
    with host.console.ledger() as ledger:
        rows = ledger.rows(
            "SELECT in_bytes, out_bytes FROM history JOIN vm ON vm.id = vm_id WHERE name = 'mail' AND start = ?",
            int(datetime(2026, 11, 18, 20, 5, tzinfo=NOW.tzinfo).timestamp()),
        )
    in_bytes, out_bytes = rows[0]
    assert f"Wed 20:05{in_bytes / 1e6:.2f} MB{in_bytes * 8 / 300 / 1e3:.3g} kbit/s{out_bytes / 1e6:.2f} MB" in text


def test_blocks_are_marked_in_charts_and_listed(host: Host) -> None:
    page = host.page("vm/mirror.html")
    assert len([path for path in page.all("path") if path["class"] == "blocked"]) >= 3
    assert "quota: used up its allowance of 1.50 TB" in page.text
    assert [path for path in host.page("vm/mail.html").all("path") if path["class"] == "blocked"] == []


def test_a_name_with_markup_is_text(host: Host) -> None:
    for name in ("index.html", htmlreport.page_of(host.console.vm(HOSTILE)), f"t/{host.stem(HOSTILE)}.html"):
        page = host.page(name)
        assert HOSTILE in page.text
        assert page.all("b") == page.all("script") == []
    assert json.loads((host.folder / f"t/{host.stem(HOSTILE)}.json").read_text())["name"] == HOSTILE


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/b", ".hidden", "index", "x" * 300, "ä\x1b[2J\n", "a~b", "..", "A b"]
)
def test_no_name_leads_out_of_the_folder_or_to_another_vm_s_page(console: Console, daemon: StandIn, name: str) -> None:
    console.runs(name)
    console.runs("index~", "vif8.0")
    console.done("report", "--html", str(console.root / "site"))
    pages = list((console.root / "site/vm").iterdir())
    assert len(pages) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9._~-]{1,90}", page.name) and page.suffix == ".html" for page in pages)
    assert sorted(os.listdir(console.root / "site")) == [".xenbw-report.json", "index.html", "t", "vm"]


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia", "America/Havana"]
)
@pytest.mark.parametrize(
    "at", ["2026-11-02 12:00", "2026-11-18 21:35", "2026-12-01 00:03", "2027-03-30 03:00", "2026-10-01"]
)
def test_days_are_those_of_the_zone_at_any_time_of_the_year(tmp_path: Path, filled: Path, zone: str, at: str) -> None:
    host = Host(tmp_path, ledger=filled)
    host.console.config.write_text(host.console.config.read_text() + f'timezone = "{zone}"\n')
    host.clock.wall = utc(at)
    host.write()
    page = host.page("vm/mail.html")
    days = [label for label in page.text.split("\n") if re.fullmatch("(Mon|Tue|Wed|Thu|Fri|Sat|Sun)", label)]
    with host.console.ledger() as ledger:
        since, vm = hour_of(host.clock.wall - timedelta(days=7)), host.console.vm("mail")
        busy = [hour for hour, _ in usagelog.hours(ledger, vm.id, since) if hour < host.clock.wall - timedelta(hours=1)]
    assert len(days) in ((6, 7) if busy else (0,))


# only what changed


def test_nothing_is_written_when_nothing_changed_but_the_time(host: Host) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in host.folder.rglob("*.html")}
    host.clock.go(seconds=100)
    assert host.write() == 0
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in before} == before


def test_five_minutes_later_the_page_of_an_idle_vm_is_left_alone(host: Host) -> None:
    idle, busy = host.folder / "vm/new.html", host.folder / "vm/mail.html"
    before = idle.stat().st_ino, busy.stat().st_ino
    host.clock.go(minutes=5)
    assert 0 < host.write() < len(host.files())
    assert idle.stat().st_ino == before[0]
    assert busy.stat().st_ino != before[1]
    assert "Last change: 2026-11-18 21:40 UTC" in host.page("vm/mail.html").text
    assert "Last change: 2026-11-18 21:35 UTC" in host.page("vm/new.html").text


def test_a_page_that_was_cut_short_or_removed_is_written_again(host: Host) -> None:
    (host.folder / "vm/new.html").unlink()
    (host.folder / "vm/mail.html").write_text("")
    assert host.write() == 2
    assert host.page("vm/mail.html").text


def test_the_pages_of_a_removed_vm_are_removed_and_no_other_file(host: Host) -> None:
    (host.folder / "vm/theirs.html").write_text("theirs")
    stem = host.stem("staging")
    assert {"vm/staging.html", f"t/{stem}.html", f"t/{stem}.json"} <= host.files()
    with host.console.ledger() as ledger:
        vmlog.retire(ledger, host.console.vm("staging").id, NOW)
    host.write()
    left = host.files()
    assert not {"vm/staging.html", f"t/{stem}.html", f"t/{stem}.json"} & left
    assert "vm/theirs.html" in left
    # A later VM of that name, which may be another tenant's, has another page.
    with host.console.ledger() as ledger:
        ledger.meet("staging", NOW + timedelta(minutes=1))
    assert host.stem("staging") != stem


def test_a_page_that_somebody_replaced_is_not_removed_with_its_vm(host: Host) -> None:
    (host.folder / "vm/staging.html").write_text("theirs now")
    with host.console.ledger() as ledger:
        vmlog.retire(ledger, host.console.vm("staging").id, NOW)
    host.write()
    assert (host.folder / "vm/staging.html").read_text() == "theirs now"


def test_a_report_that_was_killed_is_completed_by_the_next(host: Host) -> None:
    listed = host.folder / LIST
    known = json.loads(listed.read_text())
    # The list is written first, with pages that are still to come.
    known["files"]["vm/mail.html"] = ""
    listed.write_text(json.dumps(known))
    (host.folder / "vm/mail.html").unlink()
    assert host.write() == 1
    assert host.page("vm/mail.html").text


def test_everybody_may_read_the_pages(host: Host) -> None:
    pages = [host.folder / name for name in host.files() if name != LIST]
    assert {oct(path.stat().st_mode & 0o777) for path in pages} == {"0o644"}
    folders = [host.folder, *(path for path in host.folder.rglob("*") if path.is_dir())]
    assert {oct(path.stat().st_mode & 0o777) for path in folders} == {"0o755"}


def test_only_root_can_read_the_list_of_pages_with_the_names_of_all_tenants_pages(host: Host) -> None:
    listed = host.folder / LIST
    assert f"t/{host.stem('mail')}.html" in listed.read_text()
    assert oct(listed.stat().st_mode & 0o777) == "0o600"


def test_the_list_of_pages_is_on_the_disk_before_it_replaces_the_old_one(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some file systems rename a file before they write its text. An empty list after a power failure stops all reports.
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").read_text()))
    host.write()
    assert synced[-1] == (host.folder / LIST).read_text()


# the tenants


def test_a_tenant_s_page_says_nothing_about_the_host_or_others(host: Host) -> None:
    with host.console.ledger() as ledger:
        ledger.set_vm(host.console.vm("mail").id, state=State.BLOCKED, blocked_reason="see the ticket of ACME")
    host.write()
    for kind in ("html", "json"):
        text = (host.folder / f"t/{host.stem('mail')}.{kind}").read_text()
        others = [guest.name for guest in seeded.GUESTS if guest.name not in ("mail", "new")]
        hidden = ["dom0-a", "192.0.2.", "00:16:3e", "xenbr0", "vif4", "ACME", 'href="..', *others]
        assert [word for word in hidden if word in text] == []
    assert "ACME" in host.page("vm/mail.html").text
    assert "Its network is off: blocked by the provider." in host.page(f"t/{host.stem('mail')}.html").text


def test_a_tenant_that_used_up_its_allowance_is_told_until_when(host: Host) -> None:
    assert (
        "The allowance is used up: its network is off until 2026-12-01 00:00 UTC."
        in host.page(f"t/{host.stem('mirror')}.html").text
    )
    assert "its network is slowed down until" in host.page(f"t/{host.stem('video-7')}.html").text


def test_the_json_beside_it_is_small_and_says_the_same(host: Host) -> None:
    text = (host.folder / f"t/{host.stem('mirror')}.json").read_text()
    assert len(text) < 500
    assert json.loads(text) == {
        "generator": "xenbw",
        "name": "mirror",
        "state": "over",
        "used_bytes": 1500 * 10**9,
        "limit_bytes": 1500 * 10**9,
        "percent": 100.0,
        "count": "total",
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-12-01T00:00:00Z",
        "updated_at": "2026-11-18T21:35:10Z",
    }


def test_the_documentation_shows_this_json(host: Host) -> None:
    shown = re.search(r"^    (\{.*?\})$", (REPO / "docs/pages.md").read_text(), re.MULTILINE | re.DOTALL)
    assert shown is not None
    made = json.loads((host.folder / f"t/{host.stem('mail')}.json").read_text())
    assert list(json.loads(shown[1])) == list(made)
    page = (REPO / "man/xenbw.1").read_text()
    told = page[page.index("The JSON document of a tenant") : page.index('.B "xenbw doctor')]
    assert [key for key in made if key not in told] == []


def test_link_prints_the_name_of_the_tenant_s_page(host: Host) -> None:
    name = host.console.done("report", "--link", "mail").strip()
    assert re.fullmatch(r"t/[0-9a-f]{64}\.html", name)
    assert host.page(name).text
    with host.console.config.open("a") as file:
        file.write(f'[report]\ndir = "{host.folder}"\n')
    assert host.console.done("report", "mail", "--link").strip() == f"{host.folder}/{name}"


def test_the_tenants_folder_has_a_page_in_place_of_a_list(host: Host) -> None:
    assert host.page("t/index.html").all("a") == []


def test_only_root_can_read_the_key(host: Host) -> None:
    path = links.key_path(host.console.ledger_path)
    assert path == host.console.ledger_path.parent / "report.key"
    assert oct(path.stat().st_mode & 0o777) == "0o600"


def test_a_new_key_makes_all_old_names_void(host: Host) -> None:
    old = host.stem("mail")
    links.key_path(host.console.ledger_path).unlink()
    host.write()
    assert not [name for name in host.files() if old in name]
    assert len([name for name in host.files() if name.startswith("t/")]) == 2 * len(seeded.GUESTS) + 1
    assert host.stem("mail") != old


def test_a_damaged_key_is_one_line(host: Host) -> None:
    path = links.key_path(host.console.ledger_path)
    path.write_text("")
    result = host.console.run("report", "--link", "mail")
    assert (result.returncode, result.stderr) == (
        1,
        f"xenbw: {path}: not a key (remove it: a new one is made, and every tenant's page gets a new name)\n",
    )


# bad folders


def said(console: Console, folder: Path) -> str:
    """The line with which the command fails."""
    result = console.run("report", "--html", str(folder))
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    return result.stderr.removeprefix("xenbw: ").strip()


def test_a_missing_parent_is_one_line(host: Host) -> None:
    folder = host.console.root / "no/site"
    assert said(host.console, folder) == f"{folder}: No such file or directory (create the folder above it first)"


def test_a_file_in_place_of_the_folder_is_one_line(host: Host) -> None:
    assert said(host.console, host.console.config) == f"{host.console.config}: File exists (name a folder)"


def test_somebody_else_s_page_is_not_overwritten(host: Host) -> None:
    folder = host.console.root / "www"
    folder.mkdir()
    (folder / "index.html").write_text("<h1>It works!")
    assert said(host.console, folder) == (
        f"{folder}/index.html: not made by xenbw, nothing was written (move it away, or name another folder)"
    )
    assert (folder / "index.html").read_text() == "<h1>It works!"
    assert not (folder / ".xenbw-report.json").exists()


def test_a_link_in_place_of_a_folder_or_a_page_is_not_followed(host: Host) -> None:
    elsewhere = host.console.root / "elsewhere"
    elsewhere.mkdir()
    folder = host.console.root / "www"
    folder.mkdir()
    (folder / "t").symlink_to(elsewhere)
    assert said(host.console, folder) == f"{folder}/t: File exists (name a folder)"
    (folder / "t").unlink()
    (folder / "index.html").symlink_to(elsewhere / "index.html")
    assert "not made by xenbw" in said(host.console, folder)
    assert list(elsewhere.iterdir()) == []


def test_a_damaged_list_of_pages_is_one_line(host: Host) -> None:
    (host.folder / LIST).write_text('{"files": {"../../etc/passwd": ""}}')
    assert "damaged, so it is unknown which pages xenbw made" in said(host.console, host.folder)


def test_a_full_disk_is_one_line_and_the_old_pages_stay(host: Host) -> None:
    with SmallDisk(200_000) as disk:
        line = said(host.console, disk.path / "site")
        assert line.endswith(
            "No space left on device (make room there; pages that were not replaced stay as they were)"
        )
        assert (disk.path / "site/vm").is_dir()
        assert not list((disk.path / "site").rglob(".*.new"))


def test_two_reports_at_a_time_do_not_meet(host: Host) -> None:
    other = os.open(host.folder, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        assert said(host.console, host.folder) == (
            f"{host.folder}: another xenbw writes the report there (try again later)"
        )
    finally:
        os.close(other)


def test_in_the_service_s_sandbox_a_folder_of_another_user_is_one_line(host: Host) -> None:
    folder = host.console.root / "theirs"
    folder.mkdir()
    os.chown(folder, 1000, 1000)
    # The service has no capability (xenbw-report.service).
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    result = host.console.run("report", "--html", str(folder), wrap=bare)
    assert result.stderr.endswith("Permission denied (choose a folder that belongs to root)\n")
    assert host.console.run("report", "--html", str(host.folder), wrap=bare).returncode == 0


@pytest.mark.parametrize("words", [["--html", "/x", "web1"], ["--html", "/x", "--period", "2026-10"], ["--link"]])
def test_options_that_exclude_each_other(console: Console, words: list[str]) -> None:
    assert console.run("report", *words).returncode == 2


def test_without_a_folder_nothing_is_written(console: Console, daemon: StandIn) -> None:
    assert "[report] dir is not set" in console.done("report", "--html")
    assert not console.ledger_path.exists()


def test_the_configured_folder_is_the_default(host: Host) -> None:
    with host.console.config.open("a") as file:
        file.write(f'[report]\ndir = "{host.console.root}/configured"\n')
    host.console.done("report", "--html")
    assert (host.console.root / "configured/index.html").exists()


def test_a_daemon_that_does_not_run_is_told_on_the_pages(tmp_path: Path, filled: Path) -> None:
    host = Host(tmp_path, ledger=filled)
    host.write()
    assert "xenbwd is not running" in host.page("index.html").text
    tenant = host.page(f"t/{host.stem('mail')}.html").text
    assert "These numbers may be old." in tenant
    assert "xenbwd" not in tenant


@pytest.mark.parametrize("words", [["report"], ["report", "--link", "web1"], ["list"]])
def test_only_the_pages_need_jinja2(console: Console, daemon: StandIn, words: list[str]) -> None:
    console.runs("web1")
    (console.root / "jinja2.py").write_text("raise SystemExit('jinja2 was imported')\n")
    env = {**console.env, "PYTHONPATH": f"{console.root}:{REPO}"}
    for argv, status in ((words, 0), (["report", "--html", str(console.root / "site")], 1)):
        done = subprocess.run(
            [sys.executable, "-m", "xenbw.cli.main", *argv], env=env, check=False, capture_output=True
        )
        assert done.returncode == status


def test_the_templates_belong_to_the_package() -> None:
    patterns = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "xenbw.report"
    ]
    assert patterns == ["templates/*"]
    assert {path.name for path in FOLDER.iterdir()} >= {"base.html", "host.html", "vm.html", "style.css"}
