"""What xenbw top shows of two looks: the rates by VM and vif, their order, a frame of any size, a table, JSON."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from xenbw import quota
from xenbw.meters.watch import Look, Passed, Seen, passed
from xenbw.model import NOTHING, VM, ZERO, Allowance, Amounts, Binding, Counters, Kind, Life, Mark, Period, Reading
from xenbw.report.account import Account
from xenbw.report.frame import View, frame, plain
from xenbw.report.table import Screen, width
from xenbw.report.top import SORTS, Cast, Shot, document, ordered, shot

AT = datetime(2026, 11, 20, 12, 34, 56, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
PERIOD = Period(AT.replace(day=1), AT.replace(month=12, day=1))
WIDE = Screen(120, colour=False, ascii=False)
GB = 10**9
CODES = re.compile(r"\x1b\[[0-9;]*m")


def account(vm_id: int, name: str, *, limit: int | None = None, blocked: str | None = None) -> Account:
    vm, allowance, usage = VM(vm_id, name, AT, blocked_reason=blocked), Allowance(limit), Counters(vm_id * GB, GB)
    return Account(vm, allowance, PERIOD, usage, quota.stand(vm, allowance, True, usage, PERIOD), running=True)


def binding(vm_id: int, life: Life, *, own: Amounts | None = None) -> Binding:
    interface = f"vif{life.domid}.{life.devid}"
    mark = Mark(ZERO, own)
    return Binding(life.ifindex, vm_id, "boot", *life[:2], Kind.VIF, life.ifindex, interface, AT, mark=mark)


def seen(life: Life, own: Amounts | None, kernel: Counters = ZERO, packets: Amounts = NOTHING) -> Seen:
    sizes = Reading(kernel, own)
    return Seen(f"vif{life.domid}.{life.devid}", sizes, Reading(ZERO, None if own is None else packets))


def look(at: float, *vifs: tuple[Life, Seen], dropped: frozenset[int] = frozenset(), problem: str = "") -> Look:
    return Look(at, dict(vifs), dropped, problem)


WEB, DB, DB2, SHOP, STRANGER = (Life(*life) for life in ((1, 0, 11), (2, 0, 12), (2, 1, 13), (3, 0, 14), (9, 0, 19)))
ACCOUNTS = {
    1: account(1, "web1", limit=100 * GB),
    2: account(2, "db1", blocked="unpaid"),
    3: account(3, "shop", limit=GB),
}
CAST = Cast(ACCOUNTS, {WEB: binding(1, WEB), DB: binding(2, DB), DB2: binding(2, DB2), SHOP: binding(3, SHOP)})
NOW = {
    WEB: Amounts(1_000_000, 3_000_000),
    DB: Amounts(20_000, 0, refused_in_bytes=500, refused_out_bytes=250),
    DB2: Amounts(40_000, 8_000, flood_bytes=10),
    SHOP: Amounts(7_000_000, 1_000),
}
PACKETS = Amounts(10, 20, 30, 40, 50)
BEFORE = look(100.0, *((life, seen(life, NOTHING)) for life in NOW))
AFTER = look(102.0, *((life, seen(life, amounts, packets=PACKETS)) for life, amounts in NOW.items()))


def taken(before: Look = BEFORE, after: Look = AFTER, cast: Cast = CAST) -> Shot:
    return shot(before, after, cast, "dom0-a", AT)


def names(view: View) -> list[str]:
    """The names in the rows of a frame."""
    return [line.split()[0] for line in frame(taken(), view, WIDE, 40, UTC_ZONE)[4:]]


# rates


def test_a_rate_is_bits_and_packets_by_the_seconds_between_two_looks() -> None:
    web1 = next(row for row in taken().rows if row.name == "web1")
    assert web1.rates[:4] == (4_000_000, 12_000_000, 5, 10)
    assert web1.rates.packets == 15


def test_a_vm_has_the_sum_of_its_vifs_and_the_host_that_of_its_vms() -> None:
    found = taken()
    db1 = next(row for row in found.rows if row.name == "db1")
    assert [vif.rates.in_bits for vif in db1.vifs] == [80_000, 160_000]
    assert (db1.rates.in_bits, db1.rates.refused_bits, db1.rates.flood_bits) == (240_000, 3_000, 40)
    assert (db1.rates.refused_in_packets, db1.rates.refused_out_packets, db1.rates.flood_packets) == (40, 50, 30)
    assert found.total.in_bits == sum(row.rates.in_bits for row in found.rows)
    assert found.total.out_packets == 40


def test_a_vif_that_just_came_or_went_has_no_rate_yet_and_is_no_error() -> None:
    before = look(1.0, (WEB, seen(WEB, NOTHING)), (SHOP, seen(SHOP, Amounts(5, 5))))
    after = look(2.0, (WEB, seen(WEB, Amounts(125, 0))), (DB, seen(DB, Amounts(10**6, 10**6))))
    assert passed(before, after) == {WEB: Passed(Amounts(125, 0), NOTHING)}
    rates = {row.name: row.rates.in_bits for row in taken(before, after).rows}
    assert rates == {"web1": 1000, "db1": 0}


def test_without_counters_of_ours_the_kernel_s_are_shown() -> None:
    before = look(1.0, (WEB, seen(WEB, None, Counters(100, 200))))
    after = look(2.0, (WEB, seen(WEB, None, Counters(225, 450))))
    found = taken(before, after)
    assert (found.meter, found.total.in_bits, found.total.out_bits) == ("kernel", 1000, 2000)
    assert taken().meter == "nft"


def test_kernel_counters_that_began_anew_are_no_negative_rate() -> None:
    before = look(1.0, (WEB, seen(WEB, None, Counters(10**9, 10**9))))
    after = look(2.0, (WEB, seen(WEB, None, Counters(125, 0))))
    assert taken(before, after).total[:2] == (1000, 0)


def test_what_a_drop_by_tc_holds_back_is_refused_and_not_out() -> None:
    """Ours do not see it, since tc comes before nft for what a guest sends; the kernel's do."""
    dropped = frozenset({WEB.ifindex})
    before = look(1.0, (WEB, seen(WEB, NOTHING, ZERO)), dropped=dropped)
    after = look(2.0, (WEB, seen(WEB, NOTHING, Counters(0, 1000))), dropped=dropped)
    total = taken(before, after).total
    assert (total.out_bits, total.refused_out_bits) == (0, 8000)


def test_two_looks_at_the_same_moment_have_no_rates() -> None:
    assert set(taken(AFTER, AFTER).total) == {0}


def test_used_is_the_ledger_s_usage_and_what_was_counted_since() -> None:
    cast = Cast(ACCOUNTS, {WEB: binding(1, WEB, own=Amounts(400_000, 3_000_000))})
    web1 = next(row for row in taken(cast=cast).rows if row.name == "web1")
    assert web1.used_bytes == 2 * GB + 600_000


# order


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("in", ["shop", "web1", "db1"]),
        ("out", ["web1", "db1", "shop"]),
        ("pps", ["db1", "shop", "web1"]),
        ("refused", ["db1", "shop", "web1"]),
        ("used", ["shop", "db1", "web1"]),
        ("name", ["db1", "shop", "web1"]),
    ],
)
def test_the_largest_come_first_and_equal_ones_by_name(sort: str, expected: list[str]) -> None:
    assert sort in SORTS
    assert names(View(sort)) == expected
    assert names(View(sort, reverse=True)) == expected[::-1]


def test_each_vif_has_a_line_below_its_vm_in_the_same_order() -> None:
    assert names(View("in", vifs=True)) == ["shop", "vif3.0", "web1", "vif1.0", "db1", "vif2.1", "vif2.0"]
    assert names(View("in", vifs=True, reverse=True)) == ["db1", "vif2.0", "vif2.1", "web1", "vif1.0", "shop", "vif3.0"]


def test_vifs_whose_vm_is_not_known_are_below_a_row_of_their_own() -> None:
    after = look(102.0, *AFTER.vifs.items(), (STRANGER, seen(STRANGER, Amounts(1, 1))))
    found = taken(after=after)
    lines = frame(found, View("name"), WIDE, 40, UTC_ZONE)
    assert [line[:15].rstrip() for line in lines[-2:]] == ["(VM not known)", "  vif9.0"]
    assert "  3 VMs  " in lines[0]
    assert document(found, ordered(found.rows, "name"))["vms"][-1]["name"] is None


# frames


def test_a_frame_on_80_columns() -> None:
    view = View("in", vifs=True)
    assert frame(taken(), view, Screen(80, colour=False, ascii=False), 24, UTC_ZONE) == [
        "dom0-a  12:34:56  3 VMs  1 over  1 blocked  meter nft  2.0 s",
        "in 32.2 Mbit/s  out 12.0 Mbit/s  refused 3.00 kbit/s  20 pkt/s in  40 pkt/s out",
        "sorted by in  q quits  ? lists the keys",
        "VM             STATE     IN bit/s OUT bit/s IN pkt/s OUT pkt/s REFUSED     USED",
        "shop           over         28.0M     4.00k        5        10       0  4.00 GB",
        "  vif3.0                    28.0M     4.00k        5        10       0",
        "web1           ok           4.00M     12.0M        5        10       0  2.00 GB",
        "  vif1.0                    4.00M     12.0M        5        10       0",
        "db1            blocked       240k     32.0k       10        20   3.00k  3.00 GB",
        "  vif2.1                     160k     32.0k        5        10       0",
        "  vif2.0                    80.0k         0        5        10   3.00k",
    ]


def test_40_columns_keep_the_state_and_both_rates() -> None:
    lines = frame(taken(), View("refused"), Screen(40, colour=False, ascii=True), 24, UTC_ZONE)
    assert lines[3:5] == ["VM         STATE     IN bit/s OUT bit/s", "db1        blocked       240k     32.0k"]


@pytest.mark.parametrize("view", [View(), View("name", vifs=True), View(help=True)])
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("columns", [1, 5, 12, 20, 39, 40, 41, 79, 80, 81, 132, 300])
def test_no_line_and_no_frame_is_larger_than_the_terminal(view: View, ascii_only: bool, columns: int) -> None:
    accounts = {**ACCOUNTS, 2: account(2, "虚拟机" * 20, blocked="x"), 3: account(3, "e\u0301" * 40 + "\x1b[2J\n")}
    found = taken(cast=Cast(accounts, CAST.bindings, "the ledger is away " * 10))
    for height in (1, 3, 4, 5, 6, 24):
        lines = frame(found, view, Screen(columns, colour=True, ascii=ascii_only), height, UTC_ZONE)
        bare = [CODES.sub("", line) for line in lines]
        assert 0 < len(lines) <= height
        assert max(map(width, bare)) <= max(1, columns - 1)
        assert all(line.isprintable() for line in bare)
        assert not ascii_only or all(line.isascii() for line in bare)


def test_vms_that_do_not_fit_are_counted() -> None:
    lines = frame(taken(), View("name", vifs=True), WIDE, 7, UTC_ZONE)
    assert [line.split()[0] for line in lines[4:6]] == ["db1", "vif2.0"]
    assert lines[6] == "... 5 more"


def test_a_blocked_vm_has_its_colour_and_no_color_none() -> None:
    coloured = frame(taken(), View("name"), Screen(80, colour=True, ascii=False), 24, UTC_ZONE)
    assert coloured[4].startswith("\x1b[1;31mdb1 ")
    assert coloured[6].startswith("web1 ")
    assert "\x1b" not in "".join(frame(taken(), View("name"), WIDE, 24, UTC_ZONE))


def test_a_hostile_name_moves_no_cursor() -> None:
    accounts = {**ACCOUNTS, 2: account(2, "\x1b[2J\r\n\x9b7m\u202e")}
    found = taken(cast=Cast(accounts, CAST.bindings))
    for text in ("".join(frame(found, View("name"), WIDE, 24, UTC_ZONE)), plain(found, View("name"))):
        assert r"\x1b[2J\r\n\x9b7m\u202e" in text
        assert not {"\x1b", "\r", "\x9b", "\u202e"} & set(text)


def test_the_note_is_a_line_of_the_frame() -> None:
    cast = Cast(ACCOUNTS, CAST.bindings, "ledger.db: database is locked (another process holds it; try again)")
    assert frame(taken(cast=cast), View(), WIDE, 24, UTC_ZONE)[2] == cast.note
    assert taken(after=look(102.0, *AFTER.vifs.items(), problem="nf_tables: no")).note == "nf_tables: no"


def test_a_host_without_vifs_has_a_frame_and_a_table() -> None:
    found = taken(look(1.0), look(2.0))
    assert frame(found, View(), WIDE, 24, UTC_ZONE)[-1] == "no VM has an interface here"
    assert plain(found, View()) == "no VM has an interface here"


def test_the_plain_table_has_all_columns_and_whole_names() -> None:
    name = "customer-42.example.org_web+db and more than a terminal is wide"
    found = taken(cast=Cast({**ACCOUNTS, 2: account(2, name)}, CAST.bindings))
    lines = plain(found, View("in", vifs=True)).splitlines()
    assert re.split("  +", lines[0]) == [
        "VM",
        "STATE",
        "IN bit/s",
        "OUT bit/s",
        "IN pkt/s",
        "OUT pkt/s",
        "REFUSED",
        "USED",
    ]
    assert lines[5].startswith(name)
    assert len(lines) == 8


def test_the_document_has_every_rate_of_the_total_each_vm_and_each_vif() -> None:
    found = taken()
    told = json.loads(json.dumps(document(found, ordered(found.rows, "name"))))
    assert list(told) == ["host", "at", "seconds", "meter", "note", "total", "vms"]
    assert (told["at"], told["seconds"], told["note"]) == ("2026-11-20T12:34:56Z", 2.0, None)
    db1, shop, _ = told["vms"]
    assert (db1["name"], db1["state"], db1["used_bytes"], db1["limit_bytes"]) == ("db1", "blocked", 3 * GB, None)
    assert shop["limit_bytes"] == GB
    (first, second) = db1["vifs"]
    assert (first["interface"], first["domid"], first["devid"], first["refused_in_bits"]) == ("vif2.0", 2, 0, 2000)
    assert told["total"].keys() == second.keys() - {"interface", "domid", "devid"}
    assert told["total"].keys() <= db1.keys()
