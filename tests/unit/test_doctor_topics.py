"""How doctor judges the other facts of a host: each judge with the facts of a sound and of a broken host."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.console import Console
from xenbw import __version__, config
from xenbw.book.fleet import HostSeen
from xenbw.clock import SystemClock
from xenbw.config import CommandSection, MailSection, MongodbSection, ReportSection, Settings, WebhookSection
from xenbw.doctor import bridges, last, proof, service, system, throttling
from xenbw.doctor.finding import Finding, Level, bad, doubt, good, worst
from xenbw.doctor.host import Host
from xenbw.doctor.proof import Metered, Routed, Sealed
from xenbw.doctor.service import LedgerFacts
from xenbw.doctor.throttling import Throttled
from xenbw.doctor.wire import Card
from xenbw.errors import XenbwError
from xenbw.ledger.trouble import CorruptLedgerError
from xenbw.runner import Result, run

NOW = datetime(2026, 11, 23, 4, 38, tzinfo=UTC)


def levels(findings: Sequence[Finding]) -> list[str]:
    return [finding.level.value for finding in findings]


# the host


@pytest.mark.parametrize(
    ("release", "level"),
    [("6.1.0-26-amd64", "PASS"), ("5.16", "PASS"), ("5.15.0-1", "WARN"), ("4.19.0-27", "WARN"), ("odd", "WARN")],
)
def test_the_kernel_has_an_egress_hook_from_5_16_on(release: str, level: str) -> None:
    assert system.judge_kernel(release).level == level


def test_a_clock_that_is_not_synchronised_is_a_warning() -> None:
    assert system.judge_clock(synchronised=True).level is Level.PASS
    assert system.judge_clock(synchronised=False).level is Level.WARN


def test_the_delivering_unit_must_be_enabled_if_programs_or_webhooks_deliver() -> None:
    path = ["xenbwd.service", "xenbw-notify.path"]
    assert system.wanted(Settings()) == ["xenbwd.service"]
    assert system.wanted(Settings(mail=MailSection(to=("root",)))) == ["xenbwd.service"]
    assert system.wanted(Settings(mail=MailSection(to=("root",), sendmail="/usr/sbin/sendmail"))) == path
    assert system.wanted(Settings(command=CommandSection(run=("/bin/page",)))) == path
    assert system.wanted(Settings(webhook=(WebhookSection(url="https://example.org/", secret="s"),))) == path


def test_the_timer_of_the_pages_must_be_enabled_if_they_have_a_folder() -> None:
    pages = Settings(report=ReportSection(dir=Path("/var/www/xenbw")))
    assert system.wanted(pages) == ["xenbwd.service", "xenbw-report.timer"]


def test_a_unit_that_is_not_enabled_is_a_failure() -> None:
    assert levels(system.judge_units({"xenbwd.service": True, "xenbw-notify.path": True})) == ["PASS"]
    (finding,) = system.judge_units({"xenbwd.service": False, "xenbw-notify.path": True})
    assert (finding.level, finding.fix) == (Level.FAIL, "systemctl enable --now xenbwd.service")


# the bridges


def test_without_br_netfilter_the_seal_blocks() -> None:
    both, off = {4: True, 6: True}, {4: False, 6: False}
    assert levels(bridges.judge_filtering(both, seals=False)) == ["PASS"]
    assert levels(bridges.judge_filtering(off, seals=True)) == ["PASS"]
    (finding,) = bridges.judge_filtering(off, seals=False)
    assert (finding.level, "modprobe br_netfilter" in finding.fix) == (Level.FAIL, True)


def test_ipv6_alone_can_be_what_iptables_does_not_see() -> None:
    (finding,) = bridges.judge_filtering({4: True, 6: False}, seals=False)
    assert "does not see IPv6 that" in finding.text


def test_null_routes_in_nft_see_bridges_without_br_netfilter() -> None:
    assert levels(bridges.judge_filtering({4: False, 6: False}, seals=False, sets=True)) == ["PASS"]


def test_flooding_matters_only_if_the_meter_cannot_tell_floods_apart() -> None:
    assert levels(bridges.judge_flooding(["vif1.0"], "nft")) == ["PASS"]
    (finding,) = bridges.judge_flooding(["vif2.0", "vif1.0"], "kernel")
    assert finding.level is Level.WARN
    assert finding.fix.startswith("bridge link set dev vif1.0 flood off")
    assert bridges.judge_flooding([], "kernel") == []


def test_an_interface_redirected_at_ingress_is_neither_metered_nor_sealed() -> None:
    assert bridges.judge_shaping([]) == []
    assert levels(bridges.judge_shaping(["vif1.0"])) == ["FAIL"]


def test_a_failing_iproute2_is_reported() -> None:
    with pytest.raises(XenbwError, match="bridge link: exit status 1"):
        bridges.ask(lambda *_, **__: Result(1, b"", b""), "bridge", "link")


# the daemon and its stores


def test_the_daemon_s_problems_are_findings_too() -> None:
    answer = {"version": __version__, "meter": "nft", "meter_reason": "", "problems": ["web1: no block"]}
    assert levels(list(service.judge_daemon(answer))) == ["PASS", "PASS", "WARN"]
    assert levels(list(service.judge_daemon({**answer, "version": "0.0.1", "problems": []}))) == [
        "PASS",
        "WARN",
        "PASS",
    ]


def test_a_meter_other_than_nft_is_a_warning() -> None:
    answer = {"version": __version__, "meter": "kernel", "meter_reason": "nft refuses", "problems": []}
    assert levels(list(service.judge_daemon(answer))) == ["PASS", "WARN"]


@pytest.mark.parametrize(
    ("size", "free", "level"),
    [(10**6, 10**10, "PASS"), (10**6, 10**8, "WARN"), (10**10, 5 * 10**9, "WARN"), (10**6, 10**6, "FAIL")],
)
def test_a_ledger_needs_room_to_grow_and_to_be_copied_at_an_upgrade(size: int, free: int, level: str) -> None:
    assert service.judge_ledger(LedgerFacts(Path("/var/lib/xenbw/ledger.db"), size, free)).level == level


@pytest.fixture
def host(tmp_path: Path) -> Host:
    console = Console(tmp_path)
    with console.ledger() as ledger:
        for number in range(200):
            ledger.meet(f"web{number}", NOW)
    return Host(config.load(console.config), run, SystemClock())


def test_a_sound_ledger_passes(host: Host) -> None:
    (finding,) = service.ledger(host)
    assert finding.level is Level.PASS


def test_a_damaged_ledger_fails(host: Host) -> None:
    path = host.settings.ledger.path
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    with pytest.raises(CorruptLedgerError):
        list(service.ledger(host))


def seen(ago: timedelta | None, name: str = "dom0-a") -> HostSeen:
    return HostSeen(name, None if ago is None else NOW - ago, 12, "0.1.0")


@pytest.mark.parametrize(
    ("found", "level"),
    [
        ([seen(timedelta(seconds=8))], "PASS"),
        ([seen(timedelta(hours=3))], "WARN"),
        ([seen(None)], "WARN"),
        ([seen(timedelta(seconds=8), "dom0-b")], "WARN"),
        (None, "FAIL"),
    ],
)
def test_the_book_must_answer_and_have_recent_data_of_this_host(found: list[HostSeen] | None, level: str) -> None:
    assert service.judge_book(found, XenbwError("no answer"), "dom0-a", NOW).level == level


def test_a_book_that_does_not_answer_is_not_waited_for(host: Host) -> None:
    # No host uses 192.0.2.0/24 (RFC 5737).
    silent = MongodbSection(uri="mongodb://192.0.2.77/?connectTimeoutMS=60000&serverSelectionTimeoutMS=60000")
    began = SystemClock().tick().elapsed
    (finding,) = service.book(replace(host, settings=replace(host.settings, mongodb=silent)))
    assert finding.level is Level.FAIL
    assert SystemClock().tick().elapsed - began < 20


def test_a_book_that_is_not_configured_is_not_mentioned(host: Host) -> None:
    assert list(service.book(host)) == []


# the packets


def test_the_meter_passes_only_if_every_byte_was_counted_once() -> None:
    passed = Card(123_200, 121_100)
    assert proof.judge_meter(Metered(passed, {"in": 123_200, "out": 121_100, "flood": 0}), "br0").level is Level.PASS
    for counted in ({"in": 123_199, "out": 121_100}, {"in": 123_200, "out": 242_200}, {}):
        assert proof.judge_meter(Metered(passed, counted), "br0").level is Level.FAIL
    flooded = {"in": 123_200, "out": 121_100, "flood": 1}
    assert proof.judge_meter(Metered(passed, flooded), "br0").level is Level.FAIL


def test_a_null_route_may_pass_bridged_pings_only_if_iptables_does_not_see_them() -> None:
    holds = Routed(before=(3, 3), blocked=(0, 0), after=(3, 3), filtered=True)
    assert proof.judge_null_route(holds).level is Level.PASS
    assert proof.judge_null_route(replace(holds, blocked=(0, 3), filtered=False)).level is Level.PASS
    assert proof.judge_null_route(replace(holds, blocked=(0, 1))).level is Level.FAIL
    assert proof.judge_null_route(replace(holds, blocked=(1, 0), filtered=False)).level is Level.FAIL


def test_a_null_route_that_cannot_be_tested_or_removed_is_a_failure() -> None:
    holds = Routed(before=(3, 3), blocked=(0, 0), after=(3, 3), filtered=True)
    assert proof.judge_null_route(replace(holds, before=(0, 3))).level is Level.FAIL
    assert proof.judge_null_route(replace(holds, after=(0, 3))).level is Level.FAIL


def test_a_seal_lets_no_frame_through_and_can_be_removed() -> None:
    assert proof.judge_seal(Sealed(0, 0, 50), "br0").level is Level.PASS
    for leaky in (Sealed(1, 0, 50), Sealed(0, 1, 50), Sealed(0, 0, 0)):
        assert proof.judge_seal(leaky, "br0").level is Level.FAIL


def test_a_throttle_passes_what_is_within_the_rate_refuses_the_rest_and_counts_both() -> None:
    holds = Throttled((50, 50), 204, (101, 100), 110, (101, 100), (103, 104), 50)
    assert throttling.judge_throttle(holds).level is Level.PASS
    for broken in (
        replace(holds, within=(50, 49)),
        replace(holds, passed=(101, 111), counted=(101, 111), refused=(103, 93)),
        replace(holds, passed=(204, 204), counted=(204, 204), refused=(0, 0)),
        replace(holds, counted=(101, 101)),
        replace(holds, refused=(103, 0)),
        replace(holds, after=0),
    ):
        assert throttling.judge_throttle(broken).level is Level.FAIL


# the result


def test_the_worst_finding_counts() -> None:
    assert worst([]) is Level.PASS
    assert worst([good("a", ""), doubt("b", "", ""), good("c", "")]) is Level.WARN
    assert worst([bad("a", "", ""), doubt("b", "", "")]) is Level.FAIL


def test_only_root_can_read_the_kept_result_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    last.keep(folder, last.document([bad("hook", "web1 is open", "close it"), good("xen", "")], NOW))
    assert stat.S_IMODE(last.path(folder).stat().st_mode) == 0o600
    assert os.listdir(folder) == ["doctor.json"]
    told = last.read(folder)
    assert told is not None
    assert (told.at, told.counts) == (NOW, {Level.FAIL: 1, Level.PASS: 1})


def test_the_document_has_the_keys_that_panels_use() -> None:
    assert last.document([bad("hook", "gone", "put it back"), good("xen", "answers")], NOW) == {
        "generated_at": "2026-11-23T04:38:00Z",
        "worst": "FAIL",
        "findings": [
            {"level": "FAIL", "topic": "hook", "text": "gone", "fix": "put it back"},
            {"level": "PASS", "topic": "xen", "text": "answers", "fix": None},
        ],
    }
