from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from xenbw import quota
from xenbw.model import VM, Allowance, Amounts, Binding, Block, Cause, Count, Counters, Digest, Kind, Period
from xenbw.report.account import Account
from xenbw.report.document import detail, dump, listing

NOW = datetime(2026, 11, 20, 12, 30, 15, 999_999, tzinfo=UTC)
NOVEMBER = Period(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
USAGE = Counters(1000, 1001)


def account(name: str = "web1", limit: int | None = 3000, usage: Counters = USAGE) -> Account:
    vm, allowance = VM(1, name, NOW, added_at=NOW), Allowance(limit, Count.TOTAL)
    return Account(vm, allowance, NOVEMBER, usage, quota.stand(vm, allowance, True, usage, NOVEMBER), running=True)


def test_a_listing_has_exactly_the_documented_keys() -> None:
    assert listing("dom0-a", NOW, [account()]) == {
        "host": "dom0-a",
        "generated_at": "2026-11-20T12:30:15Z",
        "vms": [
            {
                "name": "web1",
                "running": True,
                "state": "ok",
                "reason": "used 2.00 KB of 3.00 KB (in and out together)",
                "period_start": "2026-11-01T00:00:00Z",
                "period_end": "2026-12-01T00:00:00Z",
                "in_bytes": 1000,
                "out_bytes": 1001,
                "used_bytes": 2001,
                "limit_bytes": 3000,
                "hard_limit_bytes": None,
                "rate_bits": None,
                "rate_in_bits": None,
                "count": "total",
                "percent": 66.7,
            }
        ],
    }


def test_without_a_limit_limit_and_percent_are_null() -> None:
    (vm,) = listing("dom0-a", NOW, [account(limit=None)])["vms"]
    assert (vm["state"], vm["limit_bytes"], vm["percent"]) == ("unlimited", None, None)


def test_bytes_beyond_53_bits_stay_exact_integers() -> None:
    (vm,) = json.loads(dump(listing("dom0-a", NOW, [account(usage=Counters(2**60 + 1, 0))])))["vms"]
    assert vm["in_bytes"] == 2**60 + 1


def test_one_vm_s_document_adds_its_blocks_bindings_and_history() -> None:
    block = Block(1, Cause.QUOTA, "over", NOW, NOVEMBER.end)
    binding = Binding(
        id=1,
        vm_id=1,
        boot_id="b",
        domid=7,
        devid=0,
        kind=Kind.VIF,
        ifindex=12,
        interface="vif7.0",
        started_at=NOW,
        ips=(ip_address("192.0.2.10"), ip_address("2001:db8::10")),
        counted=Amounts(5, 6, 7, 8, 9),
    )
    earlier = Digest(412, NOVEMBER.start, NOW, "offline", (ip_address("192.0.2.10"),), Amounts(5, 6, 7, 8, 9))
    document = detail(account(), [block], [binding], [(NOVEMBER.start, Counters(1000, 1001), 12)], [earlier])
    assert list(document)[-4:] == ["blocks", "earlier_lives", "bindings", "history"]
    assert document["earlier_lives"] == [
        {
            "lives": 412,
            "ips": ["192.0.2.10"],
            "started_at": "2026-11-01T00:00:00Z",
            "ended_at": "2026-11-20T12:30:15Z",
            "end_reason": "offline",
            "in_bytes": 5,
            "out_bytes": 6,
            "flood_bytes": 7,
            "refused_in_bytes": 8,
            "refused_out_bytes": 9,
        }
    ]
    assert document["blocks"] == [
        {
            "cause": "quota",
            "reason": "over",
            "since": "2026-11-20T12:30:15Z",
            "until": "2026-12-01T00:00:00Z",
            "lifted_at": None,
            "lift_reason": None,
        }
    ]
    assert document["bindings"] == [
        {
            "domid": 7,
            "devid": 0,
            "interface": "vif7.0",
            "mac": None,
            "ips": ["192.0.2.10", "2001:db8::10"],
            "bridge": None,
            "started_at": "2026-11-20T12:30:15Z",
            "ended_at": None,
            "end_reason": None,
            "in_bytes": 5,
            "out_bytes": 6,
            "flood_bytes": 7,
            "refused_in_bytes": 8,
            "refused_out_bytes": 9,
            "meter": "kernel",
        }
    ]
    assert document["history"] == [
        {
            "period_start": "2026-11-01T00:00:00Z",
            "in_bytes": 1000,
            "out_bytes": 1001,
            "used_bytes": 2001,
            "divided_bytes": 12,
        }
    ]


def test_a_lifted_block_has_the_time_and_the_reason() -> None:
    lifted = Block(1, Cause.ADMIN, "abuse", NOW, None, NOW + timedelta(hours=1), "the admin lifted the block")
    (block,) = detail(account(), [lifted], [], [])["blocks"]
    assert (block["until"], block["lifted_at"], block["lift_reason"]) == (
        None,
        "2026-11-20T13:30:15Z",
        "the admin lifted the block",
    )


def test_a_hostile_name_never_reaches_a_terminal_unchanged() -> None:
    text = dump(listing("dom0-a", NOW, [account(name="a\x1b[2J\u202eb")]))
    assert text.isascii()
    assert "\x1b" not in text
    assert json.loads(text)["vms"][0]["name"] == "a\x1b[2J\u202eb"
