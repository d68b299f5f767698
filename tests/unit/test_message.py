from __future__ import annotations

import shlex
from dataclasses import replace
from ipaddress import ip_address
from zoneinfo import ZoneInfo

import pytest

from tests.support.clock import utc
from xenbw.model import Action, Allowance, Period
from xenbw.tell import message
from xenbw.tell.message import Case

CASE = Case(
    host="dom0-7",
    name="web1",
    reason="used 501 GB of 500 GB (in and out together): over its allowance by 1.00 GB",
    addresses=(ip_address("192.0.2.7"), ip_address("2001:db8::7")),
    period=Period(utc("2026-03-14 23:00"), utc("2026-04-14 22:00")),
    at=utc("2026-03-29 12:30"),
    zone=ZoneInfo("Europe/Berlin"),
)
HOSTILE = "a'; reboot; '\nVM:        other\r\nBcc: x@y\x1b[2J\u202eb"


def every_message(case: Case) -> list[tuple[str, str]]:
    return [
        message.warned(case, 80),
        message.forecast(case, case.period.end, None),
        message.forecast(case, case.period.end, case.at),
        message.forecast_off(case, case.at),
        message.null_routed(case, case.period.end),
        message.null_routed(case, None),
        message.over(case),
        message.released(case, "a new period began"),
        message.released(case, "its allowance now throttles it", throttled=True),
        message.throttled(case),
        message.unthrottled(case, "a new period began"),
        message.unfiltered(case, "xenbr0"),
    ]


def test_a_null_route_is_announced_with_its_reason_its_end_and_the_command_to_release_it() -> None:
    subject, body = message.null_routed(CASE, CASE.period.end)
    assert subject == "[xenbw] web1: null-routed"
    assert body == (
        "web1 was null-routed: used 501 GB of 500 GB (in and out together): over its allowance by 1.00 GB.\n"
        "\n"
        "It stays blocked until 2026-04-15 00:00 CEST, when its next period begins, or until its allowance is raised.\n"
        "\n"
        "To release it now: xenbw lift web1\n"
        "\n"
        "VM:        web1\n"
        "Host:      dom0-7\n"
        "Addresses: 192.0.2.7, 2001:db8::7\n"
        "Period:    2026-03-15 00:00 CET to 2026-04-15 00:00 CEST\n"
        "Time:      2026-03-29 14:30 CEST\n"
    )


def test_a_block_by_the_admin_has_no_end() -> None:
    assert "It stays blocked until it is lifted." in message.null_routed(CASE, None)[1]


def test_a_release_gives_the_reason_and_the_present_state() -> None:
    case = replace(CASE, reason="no allowance is set")
    body = message.released(case, "its allowance covers its usage again")[1]
    assert "web1 is no longer blocked: its allowance covers its usage again." in body
    assert "Its state now: no allowance is set." in body


THROTTLED = replace(
    CASE,
    reason=f"{CASE.reason}; throttled to 10 Mbit/s",
    allowance=Allowance(5 * 10**11, action=Action.THROTTLE, rate=10**7, hard_limit_bytes=2 * 10**12),
)


def test_a_throttle_is_announced_with_its_rate_its_end_the_hard_limit_and_the_command_to_lift_it() -> None:
    subject, body = message.throttled(THROTTLED)
    assert subject == "[xenbw] web1: throttled"
    assert body.split("\n\n")[:-1] == [
        f"web1 has {CASE.reason}; throttled to 10 Mbit/s.",
        "It stays throttled until 2026-04-15 00:00 CEST, when its next period begins, or until its allowance is "
        "raised.",
        "If it uses more than its hard limit of 2.00 TB, it is blocked.",
        "To lift the throttle now: xenbw lift web1",
    ]


def test_without_a_hard_limit_a_throttle_s_announcement_speaks_of_none() -> None:
    assert "hard limit" not in message.throttled(CASE)[1]


def test_the_end_of_a_throttle_gives_the_reason_and_the_present_state() -> None:
    subject, body = message.unthrottled(replace(CASE, reason="no allowance is set"), "a new period began")
    assert subject == "[xenbw] web1: no longer throttled"
    assert body.startswith("web1 is no longer throttled: a new period began.\n\nIts state now: no allowance is set.\n")


def test_the_release_of_a_vm_that_is_throttled_from_now_on_says_both() -> None:
    subject, body = message.released(THROTTLED, "its allowance now throttles it", throttled=True)
    assert subject == "[xenbw] web1: released, and throttled"
    assert "web1 is no longer blocked: its allowance now throttles it." in body
    assert "over its allowance by 1.00 GB; throttled to 10 Mbit/s." in body


def test_a_mail_says_if_no_address_is_known() -> None:
    assert "Addresses: none known\n" in message.over(replace(CASE, addresses=()))[1]


@pytest.mark.parametrize("number", range(len(every_message(CASE))))
def test_a_hostile_name_adds_no_line_and_hides_nothing(number: int) -> None:
    subject, body = every_message(replace(CASE, name=HOSTILE))[number]
    _, plain = every_message(CASE)[number]
    assert subject.isprintable()
    assert len(body.splitlines()) == len(plain.splitlines())
    assert all(line.isprintable() for line in body.splitlines())


def test_the_command_to_release_a_vm_can_be_pasted_into_a_shell_whatever_the_name() -> None:
    body = message.null_routed(replace(CASE, name="a'; touch /tmp/x; '"), None)[1]
    command = next(line for line in body.splitlines() if line.startswith("To release"))
    assert shlex.split(command.partition(": ")[2]) == ["xenbw", "lift", "a'; touch /tmp/x; '"]
