"""Mails to the admin, and to a VM's tenant: a subject and a body. A tenant's mail names neither the host nor a command
of the admin's."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from zoneinfo import ZoneInfo

from xenbw.model import Address, Allowance, Period
from xenbw.text import printable
from xenbw.units import format_size


@dataclass(frozen=True)
class Case:
    """The facts about one VM for a message. Times are shown in `zone`. used_bytes: the counted bytes of the period;
    None if they were not looked up. tenant: the mail addresses of its tenant. to_tenant: whether the message is for
    the tenant; then host is empty."""

    host: str
    name: str
    reason: str
    addresses: Sequence[Address]
    period: Period
    at: datetime
    zone: ZoneInfo
    allowance: Allowance = Allowance()  # noqa: RUF009 (frozen)
    used_bytes: int | None = None
    tenant: Sequence[str] = ()
    to_tenant: bool = False

    @property
    def head(self) -> str:
        """How a subject begins."""
        return f"{self.shown}:" if self.to_tenant else f"[xenbw] {self.shown}:"

    @property
    def shown(self) -> str:
        """The VM's name, safe to print."""
        return printable(self.name)


def for_tenant(case: Case) -> Case:
    """The same case for a message to the tenant."""
    return replace(case, host="", to_tenant=True)


def _when(moment: datetime, case: Case) -> str:
    return moment.astimezone(case.zone).strftime("%Y-%m-%d %H:%M %Z")


def body(case: Case, *paragraphs: str) -> str:
    """A mail's text: the paragraphs, and the facts of the case as a table."""
    facts = (
        ("VM", case.shown),
        *((("Host", case.host),) if case.host else ()),
        ("Addresses", ", ".join(str(address) for address in case.addresses) or "none known"),
        ("Period", f"{_when(case.period.start, case)} to {_when(case.period.end, case)}"),
        ("Time", _when(case.at, case)),
    )
    table = "\n".join(f"{label + ':':<11}{value}" for label, value in facts)
    return "\n\n".join((*paragraphs, table)) + "\n"


def _for_admin(case: Case, paragraph: str) -> tuple[str, ...]:
    return () if case.to_tenant else (paragraph,)


def dropped(queue: str, count: int, host: str) -> tuple[str, str]:
    """The mail that messages of this queue were dropped."""
    return (
        f"[xenbw] {host}: {count} messages were dropped",
        f"{count} messages that waited for {queue} were dropped, because too many waited: the oldest first, and those"
        f" about blocks last.\n\nThe latest events of a VM: xenbw show VM\nTo test the channel: xenbw notify --test\n",
    )


def limit(case: Case) -> str:
    """The VM's limit as a size."""
    size = case.allowance.limit_bytes or case.allowance.hard_limit_bytes
    return "allowance" if size is None else format_size(size)


def warned(case: Case, threshold: int) -> tuple[str, str]:
    return (
        f"{case.head} traffic warning, {threshold} % used",
        body(
            case,
            f"{case.shown} has used {threshold} % of its {limit(case)}.",
            f"It has {case.reason}. Nothing is blocked yet.",
        ),
    )


def crosses(case: Case, crosses_at: datetime) -> str:
    return f"crosses its {limit(case)} on {_when(crosses_at, case)}"


def forecast(case: Case, crosses_at: datetime, before: datetime | None) -> tuple[str, str]:
    return (
        f"{case.head} will cross its allowance on {_when(crosses_at, case)}",
        body(
            case,
            f"{case.shown} {crosses(case, crosses_at)}, if it goes on as in the last seven days.",
            *((f"Until now it was expected to cross it on {_when(before, case)}.",) if before else ()),
            f"It has {case.reason}. Nothing is blocked yet.",
        ),
    )


def forecast_off(case: Case, before: datetime) -> tuple[str, str]:
    return (
        f"{case.head} no longer expected to cross its allowance",
        body(
            case,
            f"{case.shown} does not cross its {limit(case)} before its period ends, if it goes on as in the last seven"
            f" days. It was expected to cross it on {_when(before, case)}.",
            f"It has {case.reason}.",
        ),
    )


def null_routed(case: Case, until: datetime | None) -> tuple[str, str]:
    lasts = (
        f"It stays blocked until {_when(until, case)}, when its next period begins, or until its allowance is raised."
        if until
        else "It stays blocked until it is lifted."
    )
    if case.to_tenant:
        return (f"{case.head} blocked", body(case, f"{case.shown} was blocked: {case.reason}.", lasts))
    if not case.addresses:
        return (
            f"{case.head} to be null-routed, but NO ADDRESS OF IT IS KNOWN",
            body(
                case,
                f"{case.shown} must be blocked: {case.reason}.",
                "Its traffic still passes: its vif has no ip= and no address was given to xenbw.",
                f"To block it: xenbw-addvm {shlex.quote(case.shown)} --ip ADDRESS",
            ),
        )
    return (
        f"{case.head} null-routed",
        body(
            case,
            f"{case.shown} was null-routed: {case.reason}.",
            lasts,
            f"To release it now: xenbw lift {shlex.quote(case.shown)}",
        ),
    )


def throttled(case: Case) -> tuple[str, str]:
    hard = case.allowance.hard_limit_bytes
    return (
        f"{case.head} throttled",
        body(
            case,
            f"{case.shown} has {case.reason}.",
            f"It stays throttled until {_when(case.period.end, case)}, when its next period begins, or until its"
            " allowance is raised.",
            *((f"If it uses more than its hard limit of {format_size(hard)}, it is blocked.",) if hard else ()),
            *_for_admin(case, f"To lift the throttle now: xenbw lift {shlex.quote(case.shown)}"),
        ),
    )


def unthrottled(case: Case, why: str) -> tuple[str, str]:
    return (
        f"{case.head} no longer throttled",
        body(case, f"{case.shown} is no longer throttled: {why}.", f"Its state now: {case.reason}."),
    )


def over(case: Case) -> tuple[str, str]:
    return (
        f"{case.head} over its allowance, not blocked",
        body(case, f"{case.shown} has {case.reason}."),
    )


def released(case: Case, why: str, *, throttled: bool = False) -> tuple[str, str]:
    return (
        f"{case.head} released" + (", and throttled" if throttled else ""),
        body(case, f"{case.shown} is no longer blocked: {why}.", f"Its state now: {case.reason}."),
    )


def unfiltered(case: Case, bridge: str) -> tuple[str, str]:
    return (
        f"{case.head} THE BLOCK DOES NOT HOLD on bridge {bridge}",
        body(
            case,
            f"{case.shown} is null-routed, but iptables on {case.host} does not see the frames that bridge {bridge} "
            "forwards, so its traffic still passes, except to the host itself.",
            "To make the block hold: modprobe br_netfilter (and list it in /etc/modules-load.d), then check that "
            "net.bridge.bridge-nf-call-iptables and net.bridge.bridge-nf-call-ip6tables are 1.",
        ),
    )
