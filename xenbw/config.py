"""Read xenbw.toml into Settings. Every key has a default; the error for an unknown key or a bad value says what is
allowed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from xenbw import checks
from xenbw.errors import UsageError, XenbwError
from xenbw.model import Action, Allowance, Count, Quiet, Span

DEFAULT_PATH = Path("/etc/xenbw/xenbw.toml")
# Debian's node_exporter reads the files in this folder.
DEFAULT_METRICS = Path("/var/lib/prometheus/node-exporter/xenbw.prom")

Documents = list[tuple[Path, dict[str, Any]]]
"""The configuration's files, each with its sections."""

_LISTED = ("webhook",)  # the sections that can come more than once

_SHOWN = 200  # how many letters of a wrong value the error shows


def _key(check: Callable[[Any], Any], default: Any) -> Any:
    return field(default=default, metadata={"check": check})


def _kinds() -> Any:
    """Which announcements a channel carries; empty: all."""
    return _key(checks.kinds, ())


def _quiet() -> Any:
    """When a channel carries only the most urgent announcements."""
    return _key(checks.quiet, None)


@dataclass(frozen=True)
class HostSection:
    name: str = _key(checks.text, "")


@dataclass(frozen=True)
class ToolstackSection:
    command: str = _key(checks.one_of("auto", "xl", "xm"), "auto")
    config_dirs: tuple[Path, ...] = _key(checks.paths, (Path("/etc/xen"), Path("/etc/xen/auto")))


@dataclass(frozen=True)
class MeterSection:
    source: str = _key(checks.one_of("auto", "nft", "kernel", "xentop"), "auto")
    interval: float = _key(checks.between(0.1, 60, "seconds"), 1.0)


@dataclass(frozen=True)
class LedgerSection:
    path: Path = _key(checks.path, Path("/var/lib/xenbw/ledger.db"))
    commit: float = _key(checks.between(0.1, 300, "seconds"), 10.0)
    keep_readings: int = _key(checks.whole(0, 3650, "days"), 1)
    keep_history: int = _key(checks.whole(1, 3650, "days"), 800)
    keep_minutes: int | None = _key(checks.days_or_ever, 35)
    keep_hours: int | None = _key(checks.days_or_ever, 400)
    keep_days: int | None = _key(checks.days_or_ever, None)
    keep_months: int | None = _key(checks.days_or_ever, None)
    keep_years: int | None = _key(checks.days_or_ever, None)

    @property
    def keep_spans(self) -> dict[Span, timedelta | None]:
        """How long the history keeps values of each span; None: for ever."""
        days = (self.keep_minutes, self.keep_hours, self.keep_days, self.keep_months, self.keep_years)
        return {span: None if kept is None else timedelta(days=kept) for span, kept in zip(Span, days, strict=True)}


@dataclass(frozen=True)
class DaemonSection:
    run_dir: Path = _key(checks.path, Path("/run/xenbw"))


@dataclass(frozen=True)
class MongodbSection:
    uri: str = field(default="", repr=False, metadata={"check": checks.mongodb_uri})
    database: str = _key(checks.database, "xenbw")
    interval: float = _key(checks.between(0.1, 3600, "seconds"), 10.0)
    keep_samples: int = _key(checks.whole(1, 3650, "days"), 30)
    user: str = _key(checks.text, "")
    password: str = field(default="", repr=False, metadata={"check": checks.text})
    ca: Path | None = _key(checks.path, None)
    certificate: Path | None = _key(checks.path, None)


@dataclass(frozen=True)
class PeriodSection:
    # Found when it is needed: where the package is built there may be no time zones.
    timezone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"), metadata={"check": checks.zone})
    reset_day: int = _key(checks.whole(1, 31), 1)
    clock_wait: float = _key(checks.between(0, 900, "seconds"), 900.0)


@dataclass(frozen=True)
class DefaultSection:
    limit: int | None = _key(checks.limit, None)
    count: str = _key(checks.one_of(*Count), "total")
    action: str = _key(checks.one_of(*Action), "block")
    warn: tuple[int, ...] = _key(checks.thresholds, (80,))
    enforce: bool = _key(checks.switch, False)
    rate: int | None = _key(checks.rate, None)
    rate_in: int | None = _key(checks.rate, None)
    hard_limit: int | None = _key(checks.limit, None)


@dataclass(frozen=True)
class EnforceSection:
    interval: float = _key(checks.between(1, 300, "seconds"), 10.0)
    protect: tuple[IPv4Network | IPv6Network, ...] = _key(checks.networks, ())
    allow: tuple[IPv4Network | IPv6Network, ...] = _key(checks.some_networks, ())
    null_routes: str = _key(checks.one_of("auto", "iptables", "nft"), "auto")

    @property
    def exceptions(self) -> tuple[str, ...]:
        """The networks that blocked VMs may reach, as text."""
        return tuple(str(network) for network in self.allow)


@dataclass(frozen=True)
class MailSection:
    to: tuple[str, ...] = _key(checks.mail_addresses, ())
    sender: str = _key(checks.mail_sender, "")
    sendmail: str = _key(checks.program, "")
    host: str = _key(checks.text, "localhost")
    port: int = _key(checks.whole(1, 65535), 25)
    starttls: bool = _key(checks.switch, False)
    user: str = _key(checks.text, "")
    password: str = field(default="", repr=False, metadata={"check": checks.text})
    templates: Path | None = _key(checks.folder, None)
    kinds: tuple[str, ...] = _kinds()
    quiet: Quiet | None = _quiet()


@dataclass(frozen=True)
class CommandSection:
    run: tuple[str, ...] = _key(checks.arguments, ())
    timeout: float = _key(checks.between(1, 3600, "seconds"), 60.0)
    kinds: tuple[str, ...] = _kinds()
    quiet: Quiet | None = _quiet()


@dataclass(frozen=True)
class WebhookSection:
    url: str = field(repr=False, metadata={"check": checks.webhook_url})  # its path may be a secret
    secret: str = field(repr=False, metadata={"check": checks.secret})
    kinds: tuple[str, ...] = _kinds()
    quiet: Quiet | None = _quiet()


@dataclass(frozen=True)
class AlertSection:
    forecast: bool = _key(checks.switch, True)
    pps: int = _key(checks.whole(0, 10**9, "packets per second"), 0)
    book: float = _key(checks.between(60, 604_800, "seconds"), 3600.0)
    disk: int = _key(checks.room, 200_000_000)


@dataclass(frozen=True)
class MetricsSection:
    file: Path | None = _key(checks.metrics_file, DEFAULT_METRICS)


@dataclass(frozen=True)
class GuestSection:
    xenstore: bool = _key(checks.switch, True)


@dataclass(frozen=True)
class ReportSection:
    dir: Path | None = _key(checks.folder, None)


@dataclass(frozen=True)
class Settings:
    """The whole configuration, checked. Sections and keys have the names of the file."""

    host: HostSection = field(default_factory=HostSection)
    toolstack: ToolstackSection = field(default_factory=ToolstackSection)
    meter: MeterSection = field(default_factory=MeterSection)
    ledger: LedgerSection = field(default_factory=LedgerSection)
    daemon: DaemonSection = field(default_factory=DaemonSection)
    mongodb: MongodbSection = field(default_factory=MongodbSection)
    period: PeriodSection = field(default_factory=PeriodSection)
    default: DefaultSection = field(default_factory=DefaultSection)
    enforce: EnforceSection = field(default_factory=EnforceSection)
    mail: MailSection = field(default_factory=MailSection)
    command: CommandSection = field(default_factory=CommandSection)
    alert: AlertSection = field(default_factory=AlertSection)
    metrics: MetricsSection = field(default_factory=MetricsSection)
    guest: GuestSection = field(default_factory=GuestSection)
    report: ReportSection = field(default_factory=ReportSection)
    webhook: tuple[WebhookSection, ...] = ()

    @property
    def host_name(self) -> str:
        return self.host.name or os.uname().nodename

    @property
    def helpers(self) -> tuple[str, ...]:
        """The hosts that xenbw itself talks to, besides the MongoDB servers."""
        return (self.mail.host,) if self.mail.to and not self.mail.sendmail else ()

    @property
    def default_allowance(self) -> Allowance:
        """The allowance of a VM that has no settings of its own."""
        chosen = self.default
        return Allowance(
            limit_bytes=chosen.limit,
            count=Count(chosen.count),
            thresholds=chosen.warn,
            action=Action(chosen.action),
            reset_day=self.period.reset_day,
            rate=chosen.rate,
            rate_in=chosen.rate_in,
            hard_limit_bytes=chosen.hard_limit,
        )


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
            shown = "..." if key in ("password", "secret", "uri") else repr(value)[:_SHOWN]
            raise UsageError(f"{where} {key} = {shown}: not allowed", f"allowed: {error.message}") from None
    for item in known.values():
        if item.default is MISSING and item.default_factory is MISSING and item.name not in values:
            raise UsageError(f"{where}: {item.name} is missing", f"write it into each {where.rpartition(' ')[2]}")
    return kind(**values)


def _listed(documents: Documents) -> tuple[WebhookSection, ...]:
    """The sections that can come more than once: those of all files. Raises UsageError."""
    found: dict[str, WebhookSection] = {}
    for path, document in documents:
        where, tables = f"{path}: [[webhook]]", document.get("webhook", [])
        if not isinstance(tables, list):
            raise UsageError(f"{where}: can come more than once", "write it with two brackets on either side")
        for table in tables:
            hook: WebhookSection = _section(WebhookSection, table, where)
            if hook.url in found:
                raise UsageError(f"{where}: two of them have the same url", "give each url one [[webhook]]")
            found[hook.url] = hook
    return tuple(found.values())


def _kind(section: Field[Any]) -> type[Any]:
    assert isinstance(section.default_factory, type)  # noqa: S101 (a section's default is made by its class)
    return section.default_factory


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise XenbwError(f"{path}: {error.strerror}", "name another file with --config or XENBW_CONFIG") from None
    except (ValueError, RecursionError) as error:  # ValueError also for numbers of more digits than Python accepts
        raise UsageError(f"{path}: {error}", "correct the line; nothing was changed") from None


def _merge(documents: Documents) -> dict[str, dict[str, tuple[Path, Any]]]:
    """Each key's value and the file that set it last; the last file that sets a key wins."""
    merged: dict[str, dict[str, tuple[Path, Any]]] = {}
    sections = {item.name: item for item in fields(Settings)}
    for path, document in documents:
        for name, table in document.items():
            if name not in sections:
                raise _unknown(path, name, table)
            if name in _LISTED:
                continue
            _section(_kind(sections[name]), table, f"{path}: [{name}]")
            merged.setdefault(name, {}).update({key: (path, value) for key, value in table.items()})
    return merged


def _unknown(path: Path, name: str, table: Any) -> UsageError:
    """The error for a name that is no section: TOML reads a key above the first [section] as such a name."""
    kinds = {item.name: _kind(item) for item in fields(Settings) if item.name not in _LISTED}
    tables = table if isinstance(table, list) else [table]
    if tables and all(isinstance(item, Mapping) for item in tables):
        return UsageError(f"{path}: [{name}]: unknown section", "known: " + ", ".join((*kinds, *_LISTED)))
    heads = [f"[{section}]" for section, kind in kinds.items() if name in (item.name for item in fields(kind))]
    hint = f"write a key below the head of its section, {' or '.join(heads) or 'like [default]'}"
    return UsageError(f"{path}: {name}: above the first section", hint)


def _refuse_contradictions(chosen: DefaultSection, given: Mapping[str, tuple[Path, Any]]) -> None:
    """Raise a UsageError if keys of [default] contradict one another. given: each key's file and value."""
    below = chosen.limit is not None and chosen.hard_limit is not None and chosen.hard_limit < chosen.limit
    unrated = chosen.rate is None
    add_rate = 'write a rate into [default], like rate = "10Mbit"'
    for is_wrong, key, why, hint in (
        (unrated and chosen.action == Action.THROTTLE, "action", "there is no rate to throttle to", add_rate),
        (unrated and chosen.rate_in is not None, "rate_in", "there is no rate for the other direction", add_rate),
        (below, "hard_limit", "below the limit", 'write a hard_limit that is not below limit, or "unlimited"'),
    ):
        if is_wrong:
            path, value = given[key]
            raise UsageError(f"{path}: [default] {key} = {value!r}: {why}", hint)


def load(path: Path | None = None) -> Settings:
    """Settings from `path`, else $XENBW_CONFIG, else /etc/xenbw/xenbw.toml if it exists, and from *.toml in the folder
    <file>.d in the order of their names. Raises a UsageError with file, section, key and the allowed values, or if the
    path can name no file, and a XenbwError if a named file cannot be read."""
    named = path or (Path(os.environ["XENBW_CONFIG"]) if os.environ.get("XENBW_CONFIG") else None)
    main = named or DEFAULT_PATH
    if not main.name:
        raise UsageError(f"{main}: not a file", "name one with --config or XENBW_CONFIG")
    folder = main.with_name(main.name + ".d")
    paths = [main] if named or checks.is_there(main) else []
    paths += sorted(folder.glob("*.toml")) if folder.is_dir() else []
    documents = [(path, _read(path)) for path in paths]
    merged = _merge(documents)
    sections: dict[str, Any] = {"webhook": _listed(documents)}
    for item in fields(Settings):
        if item.name in _LISTED:
            continue
        table = {key: value for key, (_, value) in merged.get(item.name, {}).items()}
        sections[item.name] = _section(_kind(item), table, f"[{item.name}]")
    _refuse_contradictions(sections["default"], merged.get("default", {}))
    return Settings(**sections)
