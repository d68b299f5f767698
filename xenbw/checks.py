"""Checks of the values in xenbw.toml. A check returns the value in the type that the program uses, or raises a
UsageError that says which values are allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import time
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from xenbw.errors import UsageError
from xenbw.model import Quiet
from xenbw.units import parse_rate, parse_size

# RFC 5322's dot-atoms, alone or after a display name. The mail server completes a user without a domain, like "root".
# The beginning of an encoded word (RFC 2047), which the module email decodes, is in no address.
MAIL_ADDRESS = re.compile(
    r"""(?!.*=\?)(?:(?P<display>[^<>"\\]*)<)?(?P<user>[\w!#$%&'*+/=?^`{|}~.-]+)(?:@(?P<domain>[A-Za-z0-9.-]+))?(?(display)>)""",
    re.ASCII,
)


# Large enough for a person, and small enough that a value which a program wrote by mistake cannot stall the daemon.
_MOST_DAYS = 36_500
LONGEST_TEXT, LONGEST_REASON, LONGEST_LIST = 4096, 500, 256
# RFC 5321's longest path, and mail addresses of one VM's tenant.
_LONGEST_ADDRESS, MOST_TENANTS = 254, 10


# The kinds of announcements.
KINDS = (
    *("warned", "over", "null-routed", "throttled", "unthrottled", "released", "unfiltered"),
    *("forecast", "forecast-off", "flood-began", "flood-ended", "trouble", "trouble-over"),
)


def text(value: Any) -> str:
    if not isinstance(value, str) or "\n" in value:
        raise UsageError("a text in quotes, on one line")
    if len(value) > LONGEST_TEXT:
        raise UsageError(f"at most {LONGEST_TEXT:,} letters, not {len(value):,}")
    return value


def reason(value: str) -> str:
    """The reason why a VM is blocked, which every screen, mail and host of the fleet shows."""
    if len(value) > LONGEST_REASON:
        raise UsageError(f"a reason of {len(value):,} letters", f"at most {LONGEST_REASON}")
    return value


def _several(value: Any, kind: str) -> list[Any]:
    if not isinstance(value, list):
        raise UsageError(kind)
    if len(value) > LONGEST_LIST:
        raise UsageError(f"{kind}, at most {LONGEST_LIST} entries and not {len(value):,}")
    return value


def one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in words:
            raise UsageError("one of " + ", ".join(f'"{word}"' for word in words))
        return cast(str, value)

    return check


def between(low: float, high: float, unit: str = "") -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise UsageError(f"a number from {low:g} to {high:g}{unit and ' ' + unit}")
        return float(value)

    return check


def whole(low: int, high: int, unit: str = "") -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"a whole number from {low} to {high}{unit and ' ' + unit}")
        return int(value)

    return check


def thresholds(value: Any) -> tuple[int, ...]:
    """Percents of a limit, lowest first and each once, from one of them or a list."""
    kind = "a whole number from 1 to 100 percent, or a list of them like [75, 90, 100]"
    percents = _several(value if isinstance(value, list) else [value], kind)
    whole_numbers = all(isinstance(percent, int) and not isinstance(percent, bool) for percent in percents)
    if not percents or not whole_numbers or not all(1 <= percent <= 100 for percent in percents):
        raise UsageError(kind)
    return tuple(sorted({int(percent) for percent in percents}))


def days_or_ever(value: Any) -> int | None:
    if value == "for ever":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_DAYS:
        raise UsageError(f'"for ever" or a whole number from 1 to {_MOST_DAYS} days')
    return int(value)


def quiet(value: Any) -> Quiet | None:
    if value == "":
        return None
    hours = re.fullmatch(r"(\d\d:\d\d)-(\d\d:\d\d)", text(value), re.ASCII)
    try:
        # From Python 3.14 on 24:00 is a time, the same as 00:00.
        if hours and hours[1] != hours[2] and "24:00" not in hours.groups():
            return Quiet(time.fromisoformat(hours[1]), time.fromisoformat(hours[2]))
    except ValueError:
        pass
    raise UsageError('a span of the day like "22:00-07:00", or "" for none')


def is_there(path: Path) -> bool:
    """Whether there is a file. Raises OSError if that cannot be seen; Path.exists says no then, from Python 3.14 on."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError("true or false")
    return value


def path(value: Any) -> Path:
    path = Path(text(value))
    if not path.is_absolute() or "\0" in value:
        raise UsageError("an absolute path")
    return path


def folder(value: Any) -> Path | None:
    if value != "" and (not Path(text(value)).is_absolute() or "\0" in value):
        raise UsageError('the absolute path of a folder, or "" for none')
    return Path(value) if value else None


def paths(value: Any) -> tuple[Path, ...]:
    return tuple(path(item) for item in _several(value, "a list of absolute paths"))


def texts(value: Any) -> tuple[str, ...]:
    return tuple(text(item) for item in _several(value, "a list of texts"))


def mail_address(value: Any) -> str:
    address = text(value)
    if not address.isprintable() or not MAIL_ADDRESS.fullmatch(address):
        raise UsageError('a mail address like "noc@example.com" or "NOC <noc@example.com>"')
    return address


def mail_addresses(value: Any) -> tuple[str, ...]:
    return tuple(mail_address(item) for item in _several(value, 'a list of mail addresses like ["noc@example.com"]'))


def tenant_addresses(value: Any) -> tuple[str, ...]:
    """The addresses of a VM's tenant: without names, so that no space is in any."""
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MOST_TENANTS:
        raise UsageError(f"1 to {MOST_TENANTS} mail addresses")
    for item in value:
        found = MAIL_ADDRESS.fullmatch(item) if isinstance(item, str) and len(item) <= _LONGEST_ADDRESS else None
        if found is None or found["display"] is not None or not found["domain"]:
            raise UsageError('mail addresses like "customer@example.com"')
    return tuple(dict.fromkeys(value))


def mail_sender(value: Any) -> str:
    return "" if value == "" else mail_address(value)


def mongodb_uri(value: Any) -> str:
    uri = text(value)
    if uri and not uri.startswith(("mongodb://", "mongodb+srv://")):
        raise UsageError('an address like "mongodb://db1.example.org,db2.example.org/?replicaSet=rs0"')
    return uri


def database(value: Any) -> str:
    name = text(value)
    # MongoDB's own limits (docs, "Naming Restrictions")
    if not name or len(name.encode()) > 63 or set(name) & set('/\\. "$*<>:|?'):
        raise UsageError("a database's name of 1 to 63 letters, digits, - and _")
    return name


def program(value: Any) -> str:
    program = text(value)
    if "\0" in program or (program and not Path(program).is_absolute()):
        raise UsageError('the absolute path of a program, like "/usr/sbin/sendmail", or "" for none')
    return program


def kinds(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(kind in KINDS for kind in value):
        raise UsageError("a list of " + ", ".join(f'"{kind}"' for kind in KINDS))
    return tuple(value)


def webhook_url(value: Any) -> str:
    url = text(value)
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname) and parts.port != 0 and parts.username is None
    except ValueError:
        named = False
    if (
        not named
        or parts.scheme != "https"
        or parts.fragment
        or not url.isascii()
        or not url.isprintable()
        or " " in url
    ):
        raise UsageError('an address like "https://panel.example.org/hooks/xenbw"')
    # The ledger keeps it with each message, and the scheme may be written HTTPS.
    return parts.scheme + url[len(parts.scheme) :]


def secret(value: Any) -> str:
    if not isinstance(value, str) or not 16 <= len(value) <= LONGEST_TEXT:
        raise UsageError("a text of at least 16 letters, like the output of `openssl rand -hex 32`")
    return text(value)


def metrics_file(value: Any) -> Path | None:
    # node_exporter's textfile collector reads no other names.
    if value != "" and (not Path(text(value)).is_absolute() or not value.endswith(".prom") or "\0" in value):
        raise UsageError('the absolute path of a file whose name ends in .prom, or "" for none')
    return Path(value) if value else None


def arguments(value: Any) -> tuple[str, ...]:
    kind = 'a list of a program\'s absolute path and its arguments, like ["/usr/local/bin/page", "-v"]'
    words = _several(value, kind)
    texts = all(isinstance(word, str) and "\0" not in word and len(word) <= LONGEST_TEXT for word in words)
    if not texts or (words and not Path(words[0]).is_absolute()):
        raise UsageError(kind)
    return tuple(words)


def networks(value: Any) -> tuple[IPv4Network | IPv6Network, ...]:
    kind = 'a list of addresses or networks like ["192.0.2.1", "2001:db8::/64"]'
    # Refuse IPv6 zones: ipaddress accepts any text as a zone, and keeps it.
    zoned = any("%" in text(item) for item in _several(value, kind))
    try:
        if not zoned:
            return tuple(ip_network(item, strict=False) for item in value)
    except ValueError:
        pass
    raise UsageError(kind)


def some_networks(value: Any) -> tuple[IPv4Network | IPv6Network, ...]:
    """Networks, but not 0.0.0.0/0 or ::/0."""
    found = networks(value)
    if not all(network.prefixlen for network in found):
        raise UsageError("networks, but not all of a family")
    return tuple(dict.fromkeys(found))


def zone(value: Any) -> ZoneInfo:
    if text(value) not in available_timezones():
        raise UsageError('a time zone like "UTC" or "Europe/Berlin" (see timedatectl list-timezones)')
    return ZoneInfo(value)


def limit(value: Any) -> int | None:
    if value == "unlimited":
        return None
    try:
        return parse_size(value)
    except UsageError:
        raise UsageError('"unlimited" or a size like "500GB" or "1.5TiB"') from None


def room(value: Any) -> int:
    """Bytes of a disk; 0 for none."""
    if value == "":
        return 0
    try:
        return parse_size(text(value))
    except UsageError:
        raise UsageError('a size like "200MB" or "1GiB", or "" for none') from None


def rate(value: Any) -> int | None:
    if value == "":
        return None
    try:
        return parse_rate(text(value))
    except UsageError:
        raise UsageError('a rate from 8kbit to 100Gbit, like "10Mbit" or "1.25MB/s", or "" for none') from None
