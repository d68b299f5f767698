"""The pages of a seeded host in a real browser: light, dark, and on a phone."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import seeded
from tests.support.browser import Browser
from tests.support.seeded import HOSTILE, write_pages
from xenbw.cli import htmlreport, links
from xenbw.ledger.ledger import Ledger

LOOKS = {
    "light": {"width": 1280, "height": 900, "dark": False},
    "dark": {"width": 1280, "height": 900, "dark": True},
    "phone": {"width": 390, "height": 844, "dark": False},
    "phone, dark": {"width": 390, "height": 844, "dark": True},
    "small phone": {"width": 320, "height": 568, "dark": False},
}
PAGES = ("host", "shop-frontend", "mirror", "hostile", "new", "tenant")

# Functions that every check uses. shown: whether an element can be seen; colour: its rgba, each 0 to 1.
SCRIPT = """
const shown = (element) => {
  const box = element.getBoundingClientRect();
  if (box.width <= 1 || box.height <= 1 || !element.checkVisibility({visibilityProperty: true})) return false;
  for (let at = element; at; at = at.parentElement) if (getComputedStyle(at).clipPath !== "none") return false;
  return true;
};
const colours = new Map();
const colour = (text) => {
  if (!colours.has(text)) colours.set(text, drawn(text));
  return colours.get(text);
};
const drawn = (text) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const found = colour(getComputedStyle(at).backgroundColor);
    if (found[3] > 0.99) return found;
  }
  return [1, 1, 1, 1];
};
const light = ([r, g, b]) => [r, g, b]
  .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
  .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
const contrast = (one, other) => {
  const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const own = (element) => [...element.childNodes].filter((node) => node.nodeType === 3)
  .map((node) => node.data.trim()).join("");
const texts = () => [...document.body.querySelectorAll("*")]
  .filter((element) => own(element) && !element.closest("svg") && shown(element));
"""
# Texts that contrast less with what is behind them than WCAG 2.2, 1.4.3 (AA), allows: 3 for large text, else 4.5.
PALE = """texts().map((element) => {
  const style = getComputedStyle(element), size = parseFloat(style.fontSize);
  const least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
  const found = contrast(colour(style.color), behind(element));
  return found < least ? `${found.toFixed(2)}: ${own(element)}` : "";
}).filter(Boolean)"""
# Shapes that contrast less with the card behind them than 1.4.11 allows: 3.
PALE_SHAPES = """[...document.querySelectorAll("svg path:not(.grid, .area, .blocked), .meter > span")]
  .map((path) => {
    const style = getComputedStyle(path);
    const drawn = path.tagName === "path" ? (style.fill === "none" ? style.stroke : style.fill) : style.backgroundColor;
    return contrast(colour(drawn), behind(path.closest("section"))) < 3 ? `${path.className.baseVal}: ${drawn}` : "";
  }).filter(Boolean)"""
# Pairs of texts, of which neither is in the other, whose boxes share more than a pixel.
OVERLAPS = """(() => {
  const boxes = texts().map((element) => {
    const range = document.createRange();
    range.selectNodeContents(element);
    return [element, range.getBoundingClientRect()];
  });
  return boxes.flatMap(([one, a], at) => boxes.slice(at + 1)
    .filter(([other, b]) => !one.contains(other) && !other.contains(one)
      && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1)
    .map(([other]) => `${own(one)} / ${own(other)}`));
})()"""
# Elements that stick out of the screen at the right or left.
OUTSIDE = """[...document.body.querySelectorAll("*")].filter((element) => shown(element) && !element.closest("svg")
  && (element.getBoundingClientRect().right > innerWidth + 0.5 || element.getBoundingClientRect().left < -0.5))
  .map((element) => `${element.tagName} ${element.className} ${own(element)}`)"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the pages; the ledger is beside it."""
    root = tmp_path_factory.mktemp("host")
    write_pages(root)
    return root / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as running:
        yield running


class Server:
    """A web server for the pages, which remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        asked: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                asked.append(self.path)

        handler = functools.partial(Handler, directory=str(folder))
        self.server, self.asked = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler), asked
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"


@pytest.fixture(scope="module")
def server(site: Path) -> Iterator[Server]:
    serving = Server(site)
    yield serving
    serving.server.shutdown()
    serving.server.server_close()


@pytest.fixture(scope="module")
def names(site: Path) -> dict[str, str]:
    """The file of each page."""
    path = site.parent / "lib/ledger.db"
    ledger = Ledger.open(path)
    vms = {vm.name: vm for vm in ledger.vms().values()}
    ledger.close()
    key = links.key_of(links.key_path(path))
    found = {name: htmlreport.page_of(vms[name]) for name in ("shop-frontend", "mirror", "new")}
    tenant = f"t/{links.stem(key, vms['mirror'])}.html"
    return {"host": "index.html", "hostile": htmlreport.page_of(vms[HOSTILE]), "tenant": tenant, **found}


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_quiet_legible_and_fits(
    browser: Browser, server: Server, names: dict[str, str], page: str, look: str
) -> None:
    browser.look(**LOOKS[look])
    server.asked.clear()
    browser.open(server.url(names[page]))
    for folded in (True, False):
        browser.ask(f"document.querySelectorAll('details').forEach((one) => one.open = {str(not folded).lower()})")
        problems = {
            name: browser.ask(f"(() => {{ {SCRIPT} return {check}; }})()")
            for name, check in {"pale": PALE, "shapes": PALE_SHAPES, "outside": OUTSIDE, "overlaps": OVERLAPS}.items()
            if folded or name != "overlaps"  # the boxes of a thousand cells take long to compare
        }
        assert {name: found for name, found in problems.items() if found} == {}
        assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints == []
    assert browser.requests == [server.url(names[page])]
    assert server.asked == [f"/{names[page]}"]


def test_the_checks_would_find_faults(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><body style='background:white'><p style='color:#999'>pale</p>"
        "<p>one</p><p style='margin-top:-2.5rem'>other</p><p style='width:9000px'>wide</p>"
        "<section><svg><path class=in fill='#eee' d='M0 0h9v9z'/></svg></section>"
        "<img src=/none.png><script>oops()</script>"
    )
    browser.look(**LOOKS["light"])
    browser.open(page.as_uri())
    for check in (PALE, PALE_SHAPES, OUTSIDE, OVERLAPS):
        assert browser.ask(f"(() => {{ {SCRIPT} return {check}; }})()") != []
    assert not browser.ask("document.documentElement.scrollWidth <= innerWidth")
    assert len(browser.requests) == 2
    assert any("oops" in complaint for complaint in browser.complaints)


def test_a_name_with_markup_is_shown_as_text(browser: Browser, server: Server, names: dict[str, str]) -> None:
    browser.look(**LOOKS["light"])
    browser.open(server.url(names["host"]))
    assert HOSTILE in browser.ask("[...document.querySelectorAll('.vms a')].map((link) => link.textContent)")
    browser.open(server.url(names["hostile"]))
    assert browser.ask("document.title") == f"{HOSTILE}: traffic"
    assert HOSTILE in browser.ask("document.querySelector('h1').textContent")
    assert browser.ask("document.querySelectorAll('h1 b, script').length") == 0


def test_the_links_lead_to_every_vm_and_back(browser: Browser, server: Server, names: dict[str, str]) -> None:
    browser.open(server.url(names["host"]))
    targets = browser.ask("[...document.querySelectorAll('.vms a')].map((link) => link.href)")
    assert len(targets) == len(seeded.GUESTS)
    for target in targets:
        browser.open(target)
        assert browser.ask("document.querySelector('nav a').href") == server.url("index.html")


def test_charts_have_names_and_descriptions_for_a_screen_reader(
    browser: Browser, server: Server, names: dict[str, str]
) -> None:
    browser.open(server.url(names["mirror"]))
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    told = [node["name"]["value"] for node in nodes if node.get("role", {}).get("value") == "image"]
    assert [text.split(" ")[0] for text in told] == ["This", "Last", "Last", "Billing"]
    assert all("GB" in text or "TB" in text for text in told)
    meters = [node["name"]["value"] for node in nodes if node.get("role", {}).get("value") == "meter"]
    assert meters == ["Used share of the allowance"]


def test_on_a_phone_the_list_is_still_a_table(browser: Browser, server: Server, names: dict[str, str]) -> None:
    browser.look(**LOOKS["phone"])
    browser.open(server.url(names["host"]))
    roles = [node.get("role", {}).get("value") for node in browser.call("Accessibility.getFullAXTree")["nodes"]]
    assert roles.count("rowheader") >= len(seeded.GUESTS)
    assert "columnheader" in roles
