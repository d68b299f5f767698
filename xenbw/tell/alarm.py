"""The words of alarms: a VM that floods, and troubles of the host itself."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from xenbw.tell import message
from xenbw.tell.message import Case
from xenbw.text import printable
from xenbw.units import format_duration, format_size

_SHOWN = 100


@dataclass(frozen=True)
class Surge:
    """A VM's flood, from its beginning up to now or to its end. way: in or out. packets: None if only bytes are known.
    usual: per second before it, of packets if these are known, else of bytes; None if unknown. whole: whether its
    traffic was watched without a break."""

    way: str
    seconds: float
    packets: int | None
    bytes: int
    refused_bytes: int
    usual: float | None = None
    whole: bool = True

    @property
    def now(self) -> str:
        """What it is like, after the VM's name."""
        seconds = max(self.seconds, 1.0)
        rate = self._amount(self.packets and self.packets / seconds, self.bytes / seconds, "/s")
        usual = "" if self.usual is None else f", usually {self._usual(self.usual)}"
        refused = f"; {format_size(round(self.refused_bytes / seconds))}/s refused" if self.refused_bytes else ""
        return f"{'is sent' if self.way == 'in' else 'sends'} {rate}{usual}{refused}"

    @property
    def sum(self) -> str:
        """What it was in all, after the VM's name."""
        amount, least = self._amount(self.packets, self.bytes), "" if self.whole else "at least "
        refused = f"; {least}{format_size(self.refused_bytes)} refused" if self.refused_bytes else ""
        took = format_duration(self.seconds)
        return f"{'was sent' if self.way == 'in' else 'sent'} {least}{amount} in {took}{refused}"

    @property
    def facts(self) -> dict[str, object]:
        """For the JSON."""
        return {
            "direction": self.way,
            "seconds": round(self.seconds),
            "packets": self.packets,
            "bytes": self.bytes,
            "refused_bytes": self.refused_bytes,
        }

    def _usual(self, rate: float) -> str:
        return f"{format_size(round(rate))}/s" if self.packets is None else f"{rate:,.0f} packets/s"

    @staticmethod
    def _amount(packets: float | None, bytes_: float, per: str = "") -> str:
        size = f"{format_size(round(bytes_))}{per}"
        return size if packets is None else f"{packets:,.0f} packets{per} ({size})"


def flood_began(case: Case, surge: Surge) -> tuple[str, str]:
    """The mail: (subject, body)."""
    from_it = "to it" if surge.way == "in" else "from it"
    return (
        f"[xenbw] {case.shown}: flood {from_it}",
        message.body(
            case,
            f"{case.shown} {surge.now}.",
            f"To see what it counted: xenbw explain {shlex.quote(case.shown)}",
            f"To block it now: xenbw block {shlex.quote(case.shown)}",
        ),
    )


def flood_ended(case: Case, surge: Surge) -> tuple[str, str]:
    """The mail: (subject, body)."""
    return f"[xenbw] {case.shown}: flood is over", message.body(case, f"{case.shown} {surge.sum}.")


@dataclass(frozen=True)
class Trouble:
    """Something on a host that does not work. key: names it, the same for as long as it lasts. text: what is wrong, for
    ledger and log, with names in it not yet made printable."""

    host: str
    key: str
    text: str
    at: datetime
    zone: ZoneInfo

    def mail(self, *, over: bool) -> tuple[str, str]:
        """(subject, body)."""
        text = printable(self.text)
        short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        word, now = ("over", "No longer") if over else ("trouble", "Now")
        when = self.at.astimezone(self.zone).strftime("%Y-%m-%d %H:%M %Z")
        hint = "" if over else "xenbw status shows all problems of the moment, and xenbw doctor says what to fix.\n\n"
        return (
            f"[xenbw] {self.host}: {word}: {short}",
            f"{now} on {self.host}: {text}\n\n{hint}Host:      {self.host}\nTime:      {when}\n",
        )
