"""Announcements of a VM's new standing: an event in the ledger, the same words in the log, a mail, and the JSON for the
admin's command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from zoneinfo import ZoneInfo

from xenbw.model import Block, Cause, Entry, Period, State
from xenbw.quota import Standing
from xenbw.tell import alarm, message
from xenbw.tell.alarm import Surge, Trouble
from xenbw.tell.document import document, of_host
from xenbw.tell.message import Case


@dataclass(frozen=True)
class Copy:
    """The mail to a VM's tenant. to: the addresses, with a space between them. document: its facts."""

    to: str
    subject: str
    body: str
    document: str


@dataclass(frozen=True)
class Announcement:
    """kind: the event's kind. text: what happened and why, for ledger and log, with the VM's name not yet made
    printable. subject and body: the mail. document: the JSON for the command. copy: the tenant's mail, if the VM has a
    tenant with an address."""

    kind: str
    text: str
    subject: str
    body: str
    document: str
    copy: Copy | None = None


def _copy(
    kind: str,
    case: Case,
    reason: str,
    write: Callable[[Case], tuple[str, str]],
    until: datetime | None = None,
    *,
    threshold: int | None = None,
    crosses_at: datetime | None = None,
) -> Copy | None:
    """The tenant's mail, as write() writes it."""
    if not case.tenant:
        return None
    theirs = message.for_tenant(case)
    mail = write(theirs)
    facts = document(kind, theirs, reason, mail, until, threshold=threshold, crosses_at=crosses_at)
    return Copy(" ".join(case.tenant), *mail, facts)


def announcement(
    entry: Entry, standing: Standing, block: Block | None, until: datetime | None, facts: Callable[[], Case]
) -> Announcement | None:
    """The announcement for a VM whose state was that of `entry`, with the open block `block`, and is now `standing`,
    blocked until `until`; None if nothing has changed. facts() is called only if there is an announcement."""
    state, was = standing.state, entry.vm.state
    if standing.block is not None:
        return _null_routed(facts(), until) if block is None else None
    if block is not None:
        return _released(facts(), block, standing)
    if State.THROTTLED in (state, was):
        if state is was:
            return None
        return _throttled(facts()) if state is State.THROTTLED else _unthrottled(facts(), standing, entry)
    return _unheld(entry, standing, facts)


def _unheld(entry: Entry, standing: Standing, facts: Callable[[], Case]) -> Announcement | None:
    """The announcement for a VM that is and was neither blocked nor throttled."""
    state = standing.state
    if not entry.enforced:
        return None
    if state is State.OVER and entry.vm.state is not State.OVER:
        return _over(facts())
    threshold = _newly_reached(entry, standing) if state is State.WARNED else 0
    return _warned(facts(), threshold) if threshold else None


def _newly_reached(entry: Entry, standing: Standing) -> int:
    """The highest threshold that the VM reached since it was last judged; 0: none. A threshold of 100 % is told by the
    announcement that the VM is over its allowance, which the next byte brings."""
    reached, before = standing.verdict.threshold, entry.vm.threshold
    if before is None:
        # An older xenbw recorded no threshold, and told when the VM became warned.
        before = 0 if entry.vm.state in (State.OK, State.UNLIMITED) else reached
    return max((one for one in entry.allowance.thresholds if before < one <= reached and one < 100), default=0)


def _null_routed(case: Case, until: datetime | None) -> Announcement:
    addresses = ", ".join(str(address) for address in case.addresses) or "no address of it is known"
    text = f"{case.name} null-routed: {case.reason}: {addresses}"
    write = partial(message.null_routed, until=until)
    mail, copy = write(case), _copy("null-routed", case, case.reason, write, until)
    return Announcement("null-routed", text, *mail, document("null-routed", case, case.reason, mail, until), copy)


def _released(case: Case, block: Block, standing: Standing) -> Announcement:
    why, throttled = why_released(block, standing, case.at), standing.throttle is not None
    write = partial(message.released, why=why, throttled=throttled)
    mail, copy = write(case), _copy("released", case, why, write)
    happened = "released, and throttled" if throttled else "released"
    text = f"{case.name} {happened}: {why}"
    return Announcement("released", text, *mail, document("released", case, why, mail), copy)


def _throttled(case: Case) -> Announcement:
    mail, reason, until = message.throttled(case), case.reason, case.period.end
    copy = _copy("throttled", case, reason, message.throttled, until)
    text = f"{case.name} throttled: {reason}"
    return Announcement("throttled", text, *mail, document("throttled", case, reason, mail, until), copy)


def _unthrottled(case: Case, standing: Standing, entry: Entry) -> Announcement:
    why = _why_unthrottled(standing, entry)
    write = partial(message.unthrottled, why=why)
    mail, copy = write(case), _copy("unthrottled", case, why, write)
    text = f"{case.name} no longer throttled: {why}"
    return Announcement("unthrottled", text, *mail, document("unthrottled", case, why, mail), copy)


def _why_unthrottled(standing: Standing, entry: Entry) -> str:
    """Why a VM that was throttled is throttled no longer, although nothing blocks it."""
    if standing.state is State.EXEMPT:
        return "the admin lifted the throttle until the period ends"
    if standing.state is State.OVER:
        return "its allowance no longer throttles it"
    since = entry.vm.state_since
    if since is not None and since < entry.period.start:
        return "a new period began"
    return "its allowance covers its usage again"


def _warned(case: Case, threshold: int) -> Announcement:
    write = partial(message.warned, threshold=threshold)
    mail, copy = write(case), _copy("warned", case, case.reason, write, threshold=threshold)
    text = f"{case.name} warned: {case.reason}"
    return Announcement("warned", text, *mail, document("warned", case, case.reason, mail, threshold=threshold), copy)


def _over(case: Case) -> Announcement:
    mail, copy = message.over(case), _copy("over", case, case.reason, message.over)
    text = f"{case.name} over: {case.reason}"
    return Announcement("over", text, *mail, document("over", case, case.reason, mail), copy)


def forecast(case: Case, crosses_at: datetime, before: datetime | None) -> Announcement:
    """The announcement that the VM will cross its allowance at `crosses_at`. before: the time that was last told."""
    reason = f"at this rate it {message.crosses(case, crosses_at)}"
    write = partial(message.forecast, crosses_at=crosses_at, before=before)
    mail, copy = write(case), _copy("forecast", case, reason, write, crosses_at=crosses_at)
    told = document("forecast", case, reason, mail, crosses_at=crosses_at)
    return Announcement("forecast", f"{case.name} forecast: {reason}", *mail, told, copy)


def forecast_off(case: Case, before: datetime) -> Announcement:
    """The announcement that the VM will no longer cross its allowance. before: the time that was last told."""
    reason = f"it is no longer expected to cross its {message.limit(case)} before its period ends"
    write = partial(message.forecast_off, before=before)
    mail, copy = write(case), _copy("forecast-off", case, reason, write)
    text = f"{case.name} forecast off: {reason}"
    return Announcement("forecast-off", text, *mail, document("forecast-off", case, reason, mail), copy)


def sample(kind: str, host: str, zone: ZoneInfo, at: datetime) -> Announcement:
    """An announcement for a test of a channel, of a kind that the channel carries. Its VM does not exist."""
    reason = "this is a test of the channel, and nothing has happened to any VM"
    case = Case(host, "xenbw-test", reason, (), Period(at, at), at, zone)
    mail = f"[xenbw] test from {host}", f"This is a test of xenbw on {host}. Nothing has happened to any VM.\n"
    return Announcement(kind, reason, *mail, document(kind, case, reason, mail))


def unfiltered(case: Case, bridge: str, text: str) -> Announcement:
    """The announcement that a block has no effect, because iptables does not see that bridge's frames."""
    mail = message.unfiltered(case, bridge)
    return Announcement("unfiltered", text, *mail, document("unfiltered", case, text, mail))


def flood_began(case: Case, surge: Surge) -> Announcement:
    """The announcement that a VM floods. surge: since its beginning."""
    mail, text = alarm.flood_began(case, surge), f"{case.name} floods: {surge.now}"
    told = document("flood-began", case, surge.now, mail, flood=surge.facts)
    return Announcement("flood-began", text, *mail, told)


def flood_ended(case: Case, surge: Surge) -> Announcement:
    """The announcement that a VM floods no longer. surge: from the flood's beginning to its end."""
    mail, text = alarm.flood_ended(case, surge), f"{case.name} floods no longer: {surge.sum}"
    told = document("flood-ended", case, surge.sum, mail, flood=surge.facts)
    return Announcement("flood-ended", text, *mail, told)


def trouble(found: Trouble) -> Announcement:
    """The announcement that something on this host does not work."""
    mail = found.mail(over=False)
    return Announcement("trouble", found.text, *mail, of_host("trouble", found, mail))


def trouble_over(found: Trouble) -> Announcement:
    """The announcement that it works again."""
    mail = found.mail(over=True)
    return Announcement("trouble-over", f"no longer: {found.text}", *mail, of_host("trouble-over", found, mail))


def why_released(block: Block, standing: Standing, at: datetime) -> str:
    """Why a VM with this standing is no longer blocked by `block`."""
    if block.cause is Cause.ADMIN:
        return "the admin lifted the block"
    if standing.state is State.EXEMPT:
        return "the admin lifted the block until the period ends"
    if standing.state is State.OVER:
        return "its allowance no longer blocks it"
    if standing.state is State.THROTTLED:
        return "its allowance now throttles it"
    if block.until is not None and at >= block.until:
        return "a new period began"
    return "its allowance covers its usage again"
