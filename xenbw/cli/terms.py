"""Read an allowance from the command line, and describe it in words."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace

from xenbw import checks
from xenbw.errors import UsageError
from xenbw.judge.roster import allowance_of
from xenbw.model import VM, Action, Allowance, Count, Network
from xenbw.units import format_percents, format_rate, format_size, parse_rate, parse_size

# The options of a throttle, and their columns.
_HELD = {"rate": "rate", "rate_in": "rate_in", "hard_limit": "hard_limit_bytes"}
_PERCENT = re.compile("[0-9]{1,3}")
Terms = dict[str, object]
"""Columns of a VM (names as in model.VM) with new values; columns that were not given are left out."""


def arguments(parser: ArgumentParser) -> None:
    """Add the options of an allowance."""
    parser.add_argument("--limit", metavar="SIZE", type=limit, help="per period, like 500GB or 1.5TiB; or unlimited")
    parser.add_argument("--count", choices=[str(count) for count in Count], help="what counts (max: larger of in, out)")
    parser.add_argument("--reset-day", metavar="DAY", type=reset_day, help="day of the month a period begins, 1 to 31")
    parser.add_argument(
        "--warn", metavar="PERCENT", type=thresholds, help="warn at this share of the limit, or at each: 75,90,100"
    )
    parser.add_argument(
        "--allow",
        metavar="ADDR",
        nargs="+",
        action="extend",
        help="addresses and networks that the VM may reach while blocked; or none; or default, for [enforce] allow",
    )
    parser.add_argument(
        "--mail",
        metavar="MAILADDR",
        nargs="+",
        action="extend",
        help="who gets the mails about this VM beside the admin; or none",
    )
    parser.add_argument("--action", choices=[str(action) for action in Action], help="what happens past the limit")
    parser.add_argument(
        "--rate", metavar="RATE", type=rate, help="for --action throttle, like 10Mbit or 1.25MB/s; or default"
    )
    parser.add_argument("--rate-in", metavar="RATE", type=rate, help="another rate to the VM; or default")
    parser.add_argument(
        "--hard-limit",
        metavar="SIZE",
        type=hard_limit,
        help="block past this usage, whatever the action; or none, or default",
    )


def given(options: Namespace) -> Terms:
    """The values of the options that were given."""
    terms: Terms = dict(options.limit or {})
    if options.count is not None:
        terms["count"] = Count(options.count)
    if options.action is not None:
        terms["action"] = Action(options.action)
    terms |= {column: option[0] for name, column in _HELD.items() if (option := getattr(options, name)) is not None}
    if options.warn is not None:
        first, several = options.warn[0], len(options.warn) > 1
        terms |= {"warn_percent": first, "warn_percents": options.warn if several else None}
    if options.reset_day is not None:
        terms["reset_day"] = options.reset_day
    if options.allow is not None:
        terms["allow"] = allowed(options.allow)
    if options.mail is not None:
        terms["mail"] = tenant(options.mail)
    return terms


def limit(text: str) -> Terms:
    """The columns for --limit. Raises UsageError."""
    if text.strip().lower() == "unlimited":
        return {"limit_bytes": None, "unlimited": True}
    return {"limit_bytes": parse_size(text), "unlimited": False}


def rate(text: str) -> tuple[int | None]:
    """Bits per second for --rate; (None,) for the default. Raises UsageError."""
    return (None,) if text.strip().lower() == "default" else (parse_rate(text),)


def hard_limit(text: str) -> tuple[int | None]:
    """Bytes for --hard-limit; (0,) for none, (None,) for the default. Raises UsageError."""
    word = text.strip().lower()
    # xenbw.toml and --limit write a limit that does not exist as "unlimited".
    return (None,) if word == "default" else (0,) if word in ("none", "unlimited") else (parse_size(text),)


def changed(vm: VM, columns: Terms) -> VM:
    """The VM with these new values."""
    return replace(vm, **columns)  # type: ignore[arg-type]  # they are columns of a VM


def check_change(vm: VM, columns: Terms, default: Allowance) -> None:
    """Raise UsageError if these new values do not fit together with the VM's other settings. If those alone do not, as
    after a change of [default], they still do not keep the admin from changing something else."""
    if columns.keys() & {"action", "rate", "rate_in"}:
        _check_rates(changed(vm, columns), default)
    if columns.keys() & {"limit_bytes", "hard_limit_bytes"}:
        check_limits(changed(vm, columns), default)


def _check_rates(vm: VM, default: Allowance) -> None:
    allowance = allowance_of(vm, default)
    if allowance.rate is not None:
        return
    if allowance.action is Action.THROTTLE:
        raise UsageError(f"{vm.name}: no rate is set to throttle it to", "--rate 10Mbit")
    if allowance.rate_in is not None:
        hint = "give the rate from it as well: --rate 10Mbit; or --rate-in default"
        raise UsageError(f"{vm.name}: --rate-in is only the rate to the VM", hint)


def check_limits(vm: VM, default: Allowance) -> None:
    """Raise UsageError if the VM's hard limit is below its limit."""
    allowance = allowance_of(vm, default)
    limit, hard = allowance.limit_bytes, allowance.hard_limit_bytes
    if limit is not None and hard is not None and hard < limit:
        raise UsageError(
            f"{vm.name}: the hard limit of {format_size(hard)} is below the limit of {format_size(limit)}",
            "give a larger --hard-limit, or none",
        )


def allowed(words: list[str]) -> tuple[Network, ...] | None:
    """The networks of --allow; None for the default. Raises UsageError."""
    if words == ["default"]:
        return None
    if len(words) > checks.LONGEST_LIST:
        raise UsageError(f"--allow: {len(words):,} addresses and networks", f"at most {checks.LONGEST_LIST}")
    try:
        return checks.some_networks([] if words == ["none"] else words)
    except UsageError:
        hint = "like 192.0.2.53 2001:db8::/64, but not all there is; or none, or default"
        raise UsageError(f"not addresses and networks: {' '.join(words)!r}", hint) from None


def tenant(words: list[str]) -> tuple[str, ...] | None:
    """The addresses of --mail; None for none. Raises UsageError."""
    try:
        return None if words == ["none"] else checks.tenant_addresses(words)
    except UsageError as error:
        raise UsageError(f"--mail {' '.join(words)!r}: not allowed", f"allowed: {error.message}, or none") from None


def _number(low: int, high: int, what: str) -> Callable[[str], int]:
    def understand(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and low <= int(text) <= high):
            raise UsageError(f"not a {what}: {text!r}", f"a whole number from {low} to {high}")
        return int(text)

    return understand


reset_day = _number(1, 31, "reset day")


def thresholds(text: str) -> tuple[int, ...]:
    """Percents for --warn, lowest first. Raises UsageError."""
    try:
        return checks.thresholds([int(word) if _PERCENT.fullmatch(word) else word for word in text.split(",")])
    except UsageError:
        hint = "whole numbers from 1 to 100, like 80 or 75,90,100"
        raise UsageError(f"not a percentage to warn at: {text!r}", hint) from None


def describe(vm: VM, default: Allowance) -> Iterator[tuple[str, str]]:
    """(what, its value) for everything that an admin can set for a VM."""
    standard = "unlimited" if default.limit_bytes is None else format_size(default.limit_bytes)
    own = "unlimited" if vm.unlimited else "" if vm.limit_bytes is None else format_size(vm.limit_bytes)
    yield "limit", own or f"{standard} (default)"
    yield "count", vm.count or f"{default.count} (default)"
    yield "reset day", str(vm.reset_day or f"{default.reset_day} (default)")
    yield "warn", format_percents(vm.thresholds or default.thresholds) + ("" if vm.thresholds else " (default)")
    yield "action", vm.action or f"{default.action} (default)"
    yield "rate", _rate(vm.rate, default.rate)
    # A rate of the VM's own is its rate each way.
    yield "rate in", "as the rate" if vm.rate and not vm.rate_in else _rate(vm.rate_in, default.rate_in)
    yield "hard limit", _own(vm.hard_limit_bytes, default.hard_limit_bytes, format_size)
    yield "allow", reached(vm) or "as configured (default)"
    yield "mail", " ".join(vm.mail or ()) or "the admin only"
    yield "ips", " ".join(str(address) for address in vm.ips) or "none given"
    yield "config file", vm.config_file or "none"


def _rate(own: int | None, default: int | None) -> str:
    return _own(own, default, format_rate)


def _own(own: int | None, default: int | None, show: Callable[[int], str]) -> str:
    if own is not None:
        return show(own) if own else "none"
    return f"{'none' if default is None else show(default)} (default)"


def reached(vm: VM) -> str:
    """The networks that a VM may reach while it is blocked; "" if it has no list of its own."""
    return "" if vm.allow is None else " ".join(str(network) for network in vm.allow) or "nothing"


def summary(bare: VM, vm: VM, default: Allowance) -> str:
    """The settings in which a VM differs from `bare`, in words; always with its limit."""
    pairs = zip(describe(bare, default), describe(vm, default), strict=True)
    return ", ".join(f"{what} {value}" for (_, was), (what, value) in pairs if value != was or what == "limit")


def difference(before: VM, after: VM, default: Allowance) -> str:
    """The settings that changed between two states of a VM, in words; "" if none did."""
    pairs = zip(describe(before, default), describe(after, default), strict=True)
    return ", ".join(f"{what} {old} -> {new}" for (what, old), (_, new) in pairs if old != new)
