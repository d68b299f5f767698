"""xenbw.toml -> Settings. Every key has a default; an unknown key or a bad value is an error saying what is allowed."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo, available_timezones

from xenbw.errors import UsageError, XenbwError
from xenbw.model import Action, Allowance, Count
from xenbw.units import parse_size

DEFAULT_PATH = Path("/etc/xenbw/xenbw.toml")
# RFC 5322's dot-atoms, alone or after a name for people; "root" is for the mail server to complete.
MAIL_ADDRESS = re.compile(
    r"""(?:(?P<display>[^<>"\\]*)<)?(?P<user>[\w!#$%&'*+/=?^`{|}~.-]+)(?:@(?P<domain>[A-Za-z0-9.-]+))?(?(display)>)""",
    re.ASCII,
)


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\n" in value:
        raise UsageError("a text in quotes, on one line")
    return value


def _one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in words:
            raise UsageError("one of " + ", ".join(f'"{word}"' for word in words))
        return cast(str, value)

    return check


def _between(low: float, high: float, unit: str = "") -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise UsageError(f"a number from {low:g} to {high:g}{unit and ' ' + unit}")
        return float(value)

    return check


def _whole(low: int, high: int, unit: str = "") -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"a whole number from {low} to {high}{unit and ' ' + unit}")
        return int(value)

    return check


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError("true or false")
    return value


def _path(value: Any) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise UsageError("an absolute path")
    return path


def _paths(value: Any) -> tuple[Path, ...]:
    if not isinstance(value, list):
        raise UsageError("a list of absolute paths")
    return tuple(_path(item) for item in value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UsageError("a list of texts")
    return tuple(_text(item) for item in value)


def _mail_address(value: Any) -> str:
    text = _text(value)
    if not text.isprintable() or not MAIL_ADDRESS.fullmatch(text):
        raise UsageError('a mail address like "noc@example.com" or "NOC <noc@example.com>"')
    return text


def _mail_addresses(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UsageError('a list of mail addresses like ["noc@example.com"]')
    return tuple(_mail_address(item) for item in value)


def _mail_sender(value: Any) -> str:
    return "" if value == "" else _mail_address(value)


def _mongodb_uri(value: Any) -> str:
    uri = _text(value)
    if uri and not uri.startswith(("mongodb://", "mongodb+srv://")):
        raise UsageError('an address like "mongodb://db1.example.org,db2.example.org/?replicaSet=rs0"')
    return uri


def _database(value: Any) -> str:
    name = _text(value)
    # MongoDB's own limits (docs, "Naming Restrictions")
    if not name or len(name.encode()) > 63 or set(name) & set('/\\. "$*<>:|?'):
        raise UsageError("a database's name of 1 to 63 letters, digits, - and _")
    return name


def _networks(value: Any) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(item, strict=False) for item in _texts(value))
    except ValueError:
        raise UsageError('a list of addresses or networks like ["192.0.2.1", "2001:db8::/64"]') from None


def _zone(value: Any) -> ZoneInfo:
    if _text(value) not in available_timezones():
        raise UsageError('a time zone like "UTC" or "Europe/Berlin" (see timedatectl list-timezones)')
    return ZoneInfo(value)


def _limit(value: Any) -> int | None:
    if value == "unlimited":
        return None
    try:
        return parse_size(value)
    except UsageError:
        raise UsageError('"unlimited" or a size like "500GB" or "1.5TiB"') from None


def _key(check: Callable[[Any], Any], default: Any) -> Any:
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True)
class HostSection:
    name: str = _key(_text, "")


@dataclass(frozen=True)
class ToolstackSection:
    command: str = _key(_one_of("auto", "xl", "xm"), "auto")
    config_dirs: tuple[Path, ...] = _key(_paths, (Path("/etc/xen"), Path("/etc/xen/auto")))


@dataclass(frozen=True)
class MeterSection:
    source: str = _key(_one_of("auto", "kernel", "xentop"), "auto")
    interval: float = _key(_between(0.1, 60, "seconds"), 1.0)


@dataclass(frozen=True)
class LedgerSection:
    path: Path = _key(_path, Path("/var/lib/xenbw/ledger.db"))
    commit: float = _key(_between(0.1, 300, "seconds"), 10.0)
    keep_readings: int = _key(_whole(0, 3650, "days"), 3)
    keep_history: int = _key(_whole(1, 3650, "days"), 800)


@dataclass(frozen=True)
class DaemonSection:
    run_dir: Path = _key(_path, Path("/run/xenbw"))


@dataclass(frozen=True)
class MongodbSection:
    uri: str = field(default="", repr=False, metadata={"check": _mongodb_uri})
    database: str = _key(_database, "xenbw")
    interval: float = _key(_between(0.1, 3600, "seconds"), 10.0)
    keep_samples: int = _key(_whole(1, 3650, "days"), 30)
    user: str = _key(_text, "")
    password: str = field(default="", repr=False, metadata={"check": _text})
    ca: Path | None = _key(_path, None)
    certificate: Path | None = _key(_path, None)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The servers that the address names."""
        servers = self.uri.partition("://")[2].partition("/")[0].rpartition("@")[2]
        return tuple(word.rpartition(":")[0] or word for word in servers.split(",") if word)


@dataclass(frozen=True)
class PeriodSection:
    timezone: ZoneInfo = _key(_zone, ZoneInfo("UTC"))
    reset_day: int = _key(_whole(1, 31), 1)
    clock_wait: float = _key(_between(0, 900, "seconds"), 900.0)


@dataclass(frozen=True)
class DefaultSection:
    limit: int | None = _key(_limit, None)
    count: str = _key(_one_of(*Count), "total")
    action: str = _key(_one_of(*Action), "block")
    warn: int = _key(_whole(1, 100, "percent"), 80)
    enforce: bool = _key(_switch, False)


@dataclass(frozen=True)
class EnforceSection:
    interval: float = _key(_between(1, 300, "seconds"), 10.0)
    protect: tuple[IPv4Network | IPv6Network, ...] = _key(_networks, ())


@dataclass(frozen=True)
class MailSection:
    to: tuple[str, ...] = _key(_mail_addresses, ())
    sender: str = _key(_mail_sender, "")
    host: str = _key(_text, "localhost")
    port: int = _key(_whole(1, 65535), 25)
    starttls: bool = _key(_switch, False)
    user: str = _key(_text, "")
    password: str = field(default="", repr=False, metadata={"check": _text})


@dataclass(frozen=True)
class Settings:
    """The whole configuration, checked. Sections and keys are named as in the file."""

    host: HostSection = HostSection()
    toolstack: ToolstackSection = ToolstackSection()
    meter: MeterSection = MeterSection()
    ledger: LedgerSection = LedgerSection()
    daemon: DaemonSection = DaemonSection()
    mongodb: MongodbSection = MongodbSection()
    period: PeriodSection = PeriodSection()
    default: DefaultSection = DefaultSection()
    enforce: EnforceSection = EnforceSection()
    mail: MailSection = MailSection()

    @property
    def host_name(self) -> str:
        return self.host.name or os.uname().nodename

    @property
    def helpers(self) -> tuple[str, ...]:
        """The hosts that xenbw itself talks to."""
        return (*((self.mail.host,) if self.mail.to else ()), *self.mongodb.hosts)

    @property
    def default_allowance(self) -> Allowance:
        """What holds for a VM that sets nothing of its own."""
        chosen = self.default
        return Allowance(chosen.limit, Count(chosen.count), chosen.warn, Action(chosen.action), self.period.reset_day)


def _section(kind: type[Any], table: Any, where: str) -> Any:
    known = {item.name: item for item in fields(kind)}
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}: is a section", "write it as a [section] with its keys below it")
    values = {}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{where} {key}: unknown key", "known here: " + ", ".join(known))
        try:
            values[key] = known[key].metadata["check"](value)
        except UsageError as error:
            shown = "..." if key in ("password", "uri") else repr(value)
            raise UsageError(f"{where} {key} = {shown}: not allowed", f"allowed: {error.message}") from None
    return kind(**values)


def _merge(paths: list[Path]) -> dict[str, dict[str, tuple[Path, Any]]]:
    """Keys with the file that set them last; later files win key by key."""
    merged: dict[str, dict[str, tuple[Path, Any]]] = {}
    sections = {item.name: item for item in fields(Settings)}
    for path in paths:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise XenbwError(f"{path}: {error.strerror}", "name another file with --config or XENBW_CONFIG") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {error}", "correct the line; nothing was changed") from None
        for name, table in document.items():
            if name not in sections:
                raise UsageError(f"{path}: [{name}]: unknown section", "known: " + ", ".join(sections))
            default = sections[name].default
            assert default is not MISSING  # noqa: S101 (every section has one)
            _section(type(default), table, f"{path}: [{name}]")
            merged.setdefault(name, {}).update({key: (path, value) for key, value in table.items()})
    return merged


def load(path: Path | None = None) -> Settings:
    """Settings from `path`, else $XENBW_CONFIG, else /etc/xenbw/xenbw.toml where it exists, and from *.toml in the
    folder <file>.d in the order of their names. Raises UsageError with file, section, key and what is allowed;
    XenbwError when a named file cannot be read."""
    named = path or (Path(os.environ["XENBW_CONFIG"]) if os.environ.get("XENBW_CONFIG") else None)
    main = named or DEFAULT_PATH
    folder = main.with_name(main.name + ".d")
    paths = [main] if named or main.exists() else []
    paths += sorted(folder.glob("*.toml")) if folder.is_dir() else []
    merged = _merge(paths)
    sections = {}
    for item in fields(Settings):
        table = {key: value for key, (_, value) in merged.get(item.name, {}).items()}
        sections[item.name] = _section(type(item.default), table, f"[{item.name}]")
    return Settings(**sections)
