"""What a guest reads about its own VM, in xenstore: a few short texts. Pure functions."""

from __future__ import annotations

from datetime import datetime

from xenbw import quota
from xenbw.model import Counters, Entry
from xenbw.units import format_time

NONE = "none"


def headline(entry: Entry) -> tuple[object, ...]:
    """Differs from an earlier one if the guest is to see a change at once. For each VM each second, so no texts are
    made."""
    return entry.allowance.limit_bytes, entry.vm.state, entry.period.end, entry.vm.blocked_reason is None


def values(entry: Entry, here: Counters, at: datetime) -> dict[str, str]:
    """The nodes of a guest. here: its usage in this period on this host.

    used: the bytes that the allowance counts, on all hosts. limit: the allowance in bytes, "none" if the VM is
    unlimited. state: as in the JSON documents. until: when the present period ends, and with it a block for usage;
    "none" for a block by the admin, which has no end. updated: when the nodes were written. Bytes are decimal numbers,
    times RFC 3339 in UTC.
    """
    limit = entry.allowance.limit_bytes
    return {
        "used": str(quota.used_bytes(entry.allowance.count, entry.used(here))),
        "limit": NONE if limit is None else str(limit),
        "state": entry.vm.state.value,
        "until": format_time(entry.period.end) if entry.vm.blocked_reason is None else NONE,
        "updated": format_time(at),
    }
