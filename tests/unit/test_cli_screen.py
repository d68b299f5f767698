"""What list and show draw on a terminal: bars, colours, a forecast; and that a pipe gets none of it."""

from __future__ import annotations

import fcntl
import re
import struct
import sys
import termios
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.support.console import Console, StandIn, Terminal
from tests.unit.test_cli_report import count
from xenbw.accounting import HOUR, hour_of
from xenbw.model import Amounts, Cell, Span, State
from xenbw.quota import period_at
from xenbw.report.screen import Cell as Drawn
from xenbw.report.screen import Place, bar, draw
from xenbw.report.table import Column, Screen, cut, width

GB = 10**9
CODES = re.compile(r"\x1b\[[0-9;]*m")
WIDE = Screen(200, colour=True, ascii=False)


@pytest.fixture
def vms(console: Console, daemon: StandIn, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Two VMs that run, and one that does not."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("LANG", "C.UTF-8")
    for name in ("NO_COLOR", "LC_ALL", "LC_CTYPE", "PYTHONUTF8", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    console.run("addvm", "web1", "--limit", "500GB", "--ip", "192.0.2.9")
    console.run("addvm", "ren", "--limit", "unlimited")
    console.run("addvm", "shop", "--limit", "1GB", "--force")
    for number, name in enumerate(("web1", "ren")):
        console.runs(name, f"vif{number}.0")
    console.uses("web1", 300 * GB, 117 * GB)
    console.uses("shop", 2 * GB, 0)
    return console


def shown(console: Console, *words: str) -> str:
    """What the terminal shows, with its colours."""
    status, said = Terminal(console, *words).end()
    assert status == 0, said
    return said


def plain(said: str) -> list[str]:
    return [line.rstrip() for line in CODES.sub("", said).splitlines()]


# list


def test_a_terminal_gets_a_bar_for_each_vm_and_its_state_in_colour(vms: Console) -> None:
    said = shown(vms, "list")
    lines = plain(said)
    assert lines[0].split() == "VM STATE RUNNING % USED LIMIT IN OUT PERIOD ENDS".split()
    assert re.match(r"shop  +over  +no  +█{16}  +200\.0  +2\.00 GB", lines[2])
    assert re.match(r"web1  +warned  +yes  +█{13}░{3}  +83\.4  +417 GB", lines[3])
    assert "\x1b[33mwarned" in said
    assert "\x1b[1;31mover" in said


def test_a_pipe_gets_plain_text_as_before(vms: Console) -> None:
    said = vms.done("list")
    assert "\x1b" not in said
    assert said.isascii()
    assert said.splitlines()[0].split() == "VM STATE RUNNING IN OUT USED LIMIT % PERIOD ENDS".split()


@pytest.mark.parametrize("words", [["list"], ["list", "--json"], ["show", "web1"], ["report"]])
def test_a_pipe_does_not_need_rich(vms: Console, words: list[str]) -> None:
    code = "import sys; sys.modules['rich'] = None; from xenbw.cli.main import main; sys.exit(main(sys.argv[4:]))"
    result = vms.run(*words, wrap=(sys.executable, "-c", code))
    assert (result.returncode, result.stderr) == (0, "")


def test_a_vm_that_will_cross_its_limit_has_a_forecast(vms: Console) -> None:
    hour = hour_of(datetime.now(UTC))
    count(vms, "web1", (Cell(Span.FIVE_MINUTES, hour - n * HOUR, Amounts(40 * GB, 0)) for n in range(1, 25)))
    vms.run("addvm", "web1", "--limit", "9TB")
    assert "crosses" not in shown(vms, "list") or datetime.now(UTC).day < 25
    # On the first of a month some of these hours are of the period before.
    start = period_at(hour, 1, ZoneInfo("UTC")).start
    used = 417 + 40 * sum(hour - n * HOUR >= start for n in range(1, 25))
    vms.run("addvm", "web1", "--limit", f"{used + 1}GB")
    found = re.search(r"crosses (\w{3} \d+ \d\d:\d\d)", shown(vms, "list"))
    # A period may end before.
    if hour.month == (hour + 2 * HOUR).month:
        assert found
        year = f"{hour.year} {found[1]}"
        crosses = datetime.strptime(year, "%Y %b %d %H:%M").replace(tzinfo=UTC)
        assert timedelta(minutes=-1) <= crosses - datetime.now(UTC) <= timedelta(minutes=3)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["ren", "shop", "web1"]),
        (["--sort", "used"], ["web1", "shop", "ren"]),
        (["--sort", "percent"], ["shop", "web1", "ren"]),
        (["--sort", "out"], ["web1", "ren", "shop"]),
        (["--over"], ["shop"]),
        (["--running"], ["ren", "web1"]),
        (["--running", "--sort", "in"], ["web1", "ren"]),
    ],
)
def test_vms_are_sorted_and_chosen_in_a_pipe_and_on_a_terminal(
    vms: Console, words: list[str], names: list[str]
) -> None:
    for said in (vms.done("list", *words), CODES.sub("", shown(vms, "list", *words))):
        assert [line.split()[0] for line in said.splitlines()[1:]] == names


def test_if_no_vm_is_chosen_a_line_says_so(vms: Console) -> None:
    for said in (vms.done("list", "--over", "--running"), shown(vms, "list", "--over", "--running")):
        assert said == "no VM is like that: xenbw list shows all\n"
    assert '"vms": []' in vms.done("list", "--over", "--running", "--json")


# colours


def test_no_color_leaves_the_bars(vms: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    said = shown(vms, "list")
    assert "\x1b" not in said
    assert "█" in said


def test_an_empty_no_color_says_nothing(vms: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert "\x1b[33m" in shown(vms, "list")


def test_never_leaves_the_bars_and_always_draws_in_a_pipe(vms: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(vms, "list", "--color", "never")
    assert "\x1b" not in said
    assert "█" in said
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[33mwarned" in vms.done("list", "--color", "always")
    assert "\x1b" not in vms.done("list", "--color", "never")


def test_a_dumb_terminal_gets_what_a_pipe_gets(vms: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    for words in (["list"], ["show", "web1"]):
        assert shown(vms, *words) == vms.done(*words)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LANG", "C"),
        ("LANG", ""),
        ("LANG", "POSIX"),
        ("LC_ALL", "C"),
        ("PYTHONIOENCODING", "latin-1"),
    ],
)
def test_a_locale_without_blocks_gets_ascii_bars(
    vms: Console, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    for words in (["list"], ["show", "shop"]):
        said = shown(vms, *words)
        assert said.isascii()
        assert "\\u" not in said
    assert "#############---" in shown(vms, "list")


# a small terminal


@pytest.mark.parametrize("columns", [30, 40, 80, 120])
def test_no_line_is_longer_than_the_terminal(vms: Console, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    vms.run("addvm", "a-name-that-is-longer-than-any-terminal-" + "x" * 100, "--limit", "1TB", "--force")
    lines = plain(shown(vms, "list"))
    assert max(map(width, lines)) <= columns
    assert lines[1].split()[0].endswith("..")
    assert [line.split()[1] for line in lines[1:]] == ["ok", "unlimited", "over", "warned"]


def test_the_terminal_s_own_width_is_taken(vms: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    terminal = Terminal(vms, "list")
    fcntl.ioctl(terminal._mine, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 44, 0, 0))
    status, said = terminal.end()
    assert status == 0
    assert max(map(width, plain(said))) <= 44


# show


def test_show_draws_the_latest_hours_days_and_months(vms: Console) -> None:
    hour = hour_of(datetime.now(UTC))
    count(vms, "web1", (Cell(Span.FIVE_MINUTES, hour - n * HOUR, Amounts((n + 1) * GB, 0)) for n in range(60)))
    said = shown(vms, "show", "web1")
    if hour_of(datetime.now(UTC)) != hour:
        pytest.skip("the hour ended meanwhile, so the rows are those of the next one")
    assert said.startswith("VM  ")
    hours, days, months = (plain(part) for part in said.split("\n\n")[-3:])
    assert hours[0].split() == ["LAST", "24", "HOURS", "USED", "IN", "OUT"]
    assert len(hours) == 1 + 24
    assert hours[1].split()[2:5] == ["█" * 30, "24.0", "GB"]
    assert hours[-1].split()[:2] == [f"{hour:%Y-%m-%d}", f"{hour:%H}:00"]
    assert len(days) in (1 + 3, 1 + 4)
    used = [line.split()[2:4] for line in months[1:]]
    assert sum(float(size) * {"GB": 1, "TB": 1000}[unit] for size, unit in used) == pytest.approx(60 * 61 / 2, rel=0.01)


def test_show_of_a_vm_without_history_says_so(vms: Console) -> None:
    assert plain(shown(vms, "show", "ren"))[-1] == "no traffic was counted yet"
    assert "no traffic" not in vms.done("show", "ren")


# output that goes nowhere


@pytest.mark.parametrize("words", [["list"], ["show", "web1"], ["report"], ["list", "--json"]])
def test_a_closed_standard_output_is_one_line(vms: Console, words: list[str]) -> None:
    result = vms.run(*words, wrap=("sh", "-c", 'exec "$@" >&-', "sh"))
    assert (result.returncode, result.stderr) == (1, "xenbw: standard output is closed (nothing was done)\n")


def test_a_reader_that_has_gone_ends_the_drawing_quietly(vms: Console) -> None:
    shell = '{ sleep 0.2; "$@"; echo $? >&2; } | true'
    result = vms.run("list", "--color", "always", wrap=("sh", "-c", shell, "sh"))
    assert result.stderr == "141\n"


# drawing


def test_names_are_text_and_never_markup() -> None:
    rows = [(Drawn("[red]x[/red] :smile: \x1b[2J"), Drawn("ok", state=State.OK))]
    said = draw((Place(Column("VM"), 0), Place(Column("STATE"), 0)), rows, WIDE)
    assert r"[red]x[/red] :smile: \x1b[2J" in said
    assert "\x1b[2J" not in said


def test_wide_names_are_cut_by_their_width() -> None:
    assert cut("虚拟机虚拟机", 7) == "虚拟.."
    assert width(cut("虚拟机虚拟机", 8)) <= 8
    assert cut("short", 5) == "short"


@pytest.mark.parametrize("only_ascii", [True, False])
def test_a_name_is_measured_as_it_is_printed(*, only_ascii: bool) -> None:
    rows = [(Drawn(name), Drawn("ok"), Drawn("2026-03-01")) for name in ("müller", "名前" * 9)]
    places = (Place(Column("VM"), 0), Place(Column("STATE"), 0), Place(Column("PERIOD ENDS"), 1))
    said = draw(places, rows, Screen(40, colour=False, ascii=only_ascii))
    printed = said.encode("ascii" if only_ascii else "utf-8", "backslashreplace").decode().splitlines()
    assert max(map(width, printed)) <= 40
    assert printed[1].startswith(r"m\xfcller " if only_ascii else "müller ")
    assert printed[2].split()[0].endswith("..")
    assert printed[1].index("ok") == printed[0].index("STATE")


@pytest.mark.parametrize(("share", "drawn"), [(0, "----"), (0.001, "#---"), (0.5, "##--"), (1, "####"), (7.5, "####")])
def test_a_bar_is_filled_to_its_share(share: float, drawn: str) -> None:
    assert bar(share, 4, ascii_only=True) == drawn
