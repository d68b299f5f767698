from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from xenbw.errors import UsageError, XenbwError
from xenbw.runner import Result
from xenbw.xen.toolstack import Domain, Toolstack, detect, guests, parse_list

DATA = Path(__file__).parents[1] / "data"
CAPTURES = DATA / "xen-4.17"
XM_LIST = DATA / "xm/xm-list.txt"
HEADER = b"Name                                        ID   Mem VCPUs\tState\tTime(s)\n"


def xl_row(name: str, domid: int, state: str = "-b----") -> bytes:
    """As tools/xl/xl_info.c prints it."""
    return f"{name:<40} {domid:5d} {128:5d} {1:5d}     {state}  {5.0:8.1f}\n".encode()


def test_reads_names_with_spaces_and_colons_as_captured() -> None:
    listed = parse_list((CAPTURES / "03-many-vifname-longname-oddname/xl-list.txt").read_bytes())
    assert listed == (
        Domain("Domain-0", 0),
        Domain("web1", 1),
        Domain("customer-42.example.org_web+db", 6),
        Domain("ren", 7),
        Domain("sp ace:col", 8),
    )


@pytest.mark.parametrize("capture", sorted(CAPTURES.glob("*/xl-list.txt")), ids=lambda path: path.parent.name)
def test_finds_the_domids_that_xl_list_l_gives(capture: Path) -> None:
    details = capture.with_name("xl-list-l.json").read_text()
    domids = [int(found) for found in re.findall(r'^        "domid": (\d+)', details, re.MULTILINE)]
    assert domids
    assert [domain.domid for domain in parse_list(capture.read_bytes())] == domids


def test_a_name_may_be_wider_than_its_column() -> None:
    name = "a" * 60
    assert parse_list(HEADER + xl_row(name, 12)) == (Domain(name, 12),)


def test_a_name_may_look_like_the_columns_beside_it() -> None:
    name = "web 7   128     1     -b----       5.3"
    assert parse_list(HEADER + xl_row(name, 12)) == (Domain(name, 12),)


def test_a_name_that_is_not_utf8_is_decoded_as_everywhere() -> None:
    row = xl_row("web?", 4).replace(b"?", b"\xff")
    assert parse_list(HEADER + row) == (Domain(r"web\xff", 4),)


@pytest.mark.parametrize("state", ["------", "r-----", "--p---", "---ss-", "---s?d", "---scd", "-----d"])
def test_the_state_does_not_matter(state: str) -> None:
    assert parse_list(HEADER + xl_row("web1", 4, state)) == (Domain("web1", 4),)


@pytest.mark.parametrize(
    ("moment", "domids"),
    [
        ("paused", {"db1": 5, "web1": 6}),
        ("saving", {"db1": 5, "web1": 6}),
        ("restoring", {"web1": 6, "db1": 7}),  # without a processor yet
        ("shutting-down", {"web1": 6, "db1": 7}),
    ],
)
def test_a_guest_is_listed_by_its_name_in_every_state(moment: str, domids: dict[str, int]) -> None:
    listed = parse_list((CAPTURES / "xl-list-states" / f"{moment}.txt").read_bytes())
    assert {domain.name: domain.domid for domain in guests(listed)} == domids


def test_a_dying_domain_without_a_name_is_left_out() -> None:
    output = HEADER + xl_row("Domain-0", 0) + xl_row("(null)", 3, "--ps-d") + xl_row("web1", 4)
    assert [domain.name for domain in parse_list(output)] == ["Domain-0", "web1"]


def test_a_line_break_in_one_name_does_not_hide_the_other_vms() -> None:
    output = HEADER + xl_row("Domain-0", 0) + xl_row("two\nlines", 3) + xl_row("web1", 4)
    assert Domain("web1", 4) in parse_list(output)


def test_xm_lists_managed_domains_that_are_off_without_a_domid() -> None:
    assert parse_list(XM_LIST.read_bytes()) == (
        Domain("Domain-0", 0),
        Domain("web1", 3),
        Domain("mail 7", 12),
        Domain("customer-42.example.org_web+db-and-a-long-tail", 14),
        Domain("host:a 5", 15),
        Domain("stopped1", None),
        Domain("stopped 5", None),
        Domain("a-stopped-one-with-a-name-over-forty-characters", None),
    )


def test_a_domain_that_has_no_state_yet_is_still_there() -> None:
    # xm_brief_list prints '' where xend knows no state.
    row = b"%-40s %5d %5d %5d %10s %8.1f\n" % (b"new 5", 16, 512, 1, b"", 0.0)
    assert parse_list(HEADER + row) == (Domain("new 5", 16),)


def test_guests_are_all_but_domain_0() -> None:
    listed = (Domain("Domain-0", 0), Domain("web1", 1), Domain("off", None))
    assert guests(listed) == (Domain("web1", 1), Domain("off", None))


def test_a_domain_that_was_destroyed_is_no_guest() -> None:
    listed = parse_list(HEADER + xl_row("web1", 4) + xl_row("Zombie-old", 3, "----cd") + xl_row("db1", 5, "---s--"))
    assert guests(listed) == (Domain("web1", 4), Domain("db1", 5))


@pytest.mark.parametrize(
    "garbage", [b"", b"\xff\xfe\0", b"Error: Unable to connect to xend\n", xl_row("web1", 4), HEADER]
)
def test_output_without_header_or_rows_is_an_error_with_a_hint(garbage: bytes) -> None:
    with pytest.raises(XenbwError) as caught:
        parse_list(garbage)
    assert caught.value.hint


class Recorded:
    """A runner that answers every command with `result` and notes what was asked."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.calls: list[tuple[list[str], float]] = []

    def __call__(self, argv: Sequence[str], *, input: bytes = b"", timeout: float = 10.0) -> Result:
        self.calls.append((list(argv), timeout))
        return self.result


@pytest.mark.parametrize("command", ["xl", "xm"])
def test_lists_with_the_command_it_was_made_for(command: str) -> None:
    run = Recorded(Result(0, XM_LIST.read_bytes(), b""))
    listed = Toolstack(command, run).list(timeout=7)
    assert Domain("web1", 3) in listed
    assert run.calls == [([command, "list"], 7)]


def test_a_failing_command_is_an_error_with_its_exit_status() -> None:
    run = Recorded(Result(3, HEADER + xl_row("web1", 4), b"xencall: error"))
    with pytest.raises(XenbwError, match="exit status 3") as caught:
        Toolstack("xl", run).list(timeout=7)
    assert caught.value.hint is not None
    assert "xl list" in caught.value.hint


@pytest.mark.parametrize(
    ("setting", "installed", "command"),
    [
        ("auto", {"xl", "xm"}, "xl"),
        ("auto", {"xl"}, "xl"),
        ("auto", {"xm"}, "xm"),
        ("xm", {"xl", "xm"}, "xm"),
        ("xl", {"xm"}, "xl"),
    ],
)
def test_auto_prefers_xl_and_a_plain_setting_is_obeyed(setting: str, installed: set[str], command: str) -> None:
    run = Recorded(Result(0, b"", b""))
    found = detect(setting, run, which=lambda name: f"/usr/sbin/{name}" if name in installed else None)
    assert found == Toolstack(command, run)
    assert run.calls == []


def test_auto_without_any_toolstack_is_an_error_with_a_hint() -> None:
    with pytest.raises(XenbwError, match="neither xl nor xm found") as caught:
        detect("auto", Recorded(Result(0, b"", b"")), which=lambda _name: None)
    assert caught.value.hint


def test_another_setting_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'xapi'"):
        detect("xapi", Recorded(Result(0, b"", b"")), which=lambda name: name)


def test_a_name_of_a_megabyte_of_blanks_or_digits_hides_no_vm_and_costs_no_time() -> None:
    # Tried at each blank, one such line would take minutes.
    signal.alarm(60)
    try:
        for filler in (" " * 1_000_000, "7 " * 500_000):
            names = [domain.name for domain in parse_list(HEADER + filler.encode() + b"x\n" + xl_row("web1", 7))]
            assert names[-1] == "web1"
    finally:
        signal.alarm(0)


def test_a_line_whose_domid_has_too_many_digits_for_python_is_no_row() -> None:
    forged = b"evil " + b"9" * 5000 + b"   128     1     -b----       1.0\n"
    assert [domain.name for domain in parse_list(HEADER + forged + xl_row("web1", 7))] == ["web1"]
