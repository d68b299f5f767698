"""Metrics in Prometheus' text format, which node_exporter's textfile collector reads; names and units are OpenMetrics'.

Labels are bounded: a vif is named by its VM and device number, as domain and interface numbers are new at each start. A
VM that nobody added is left out while it neither runs nor has used anything in its period.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from xenbw import __version__, quota
from xenbw.ledger.unmetered import Unmetered
from xenbw.model import ZERO, Amounts, Counters, Entry, Kind, State
from xenbw.text import printable


class VifSample(NamedTuple):
    """What a live vif has counted. domid tells which of two domains of a VM is the newer one."""

    vm_id: int
    domid: int
    devid: int
    kind: Kind
    counted: Amounts


@dataclass(frozen=True)
class Sample:
    """Everything that the metrics tell, as of `at`.

    entries, here: all VMs, and their usage on this host in their present periods, by VM id. unseen: running VMs whose
    traffic this dom0 does not see. status: the daemon's state as its control socket answers it; None: it does not run.
    waiting: the number of undelivered messages by channel.
    """

    at: datetime
    entries: Mapping[int, Entry]
    here: Mapping[int, Counters]
    vifs: Sequence[VifSample] = ()
    unseen: Mapping[int, Unmetered] = field(default_factory=dict)
    status: Mapping[str, Any] | None = None
    waiting: Mapping[str, int] = field(default_factory=dict)


class _Family:
    """The samples of one metric. The value of a series that is set twice is the last one: node_exporter refuses its
    whole folder for a series that comes twice."""

    def __init__(self, name: str, kind: str, text: str) -> None:
        self.name, self._kind, self._text = name, kind, text
        self._values: dict[str, int] = {}

    def set(self, value: int, labels: str = "") -> None:
        """labels: as in the text, but without the braces."""
        self._values[labels] = value

    def lines(self) -> list[str]:
        if not self._values:
            return []
        name = self.name
        lines = [f"# HELP {name} {self._text}", f"# TYPE {name} {self._kind}"]
        return lines + [
            f"{name}{{{labels}}} {value:d}" if labels else f"{name} {value:d}" for labels, value in self._values.items()
        ]


def _label(key: str, value: str) -> str:
    """One label with its value on one line (prometheus.io/docs/instrumenting/exposition_formats)."""
    shown = value if value.isascii() and value.isprintable() else printable(value)
    if "\\" in shown or '"' in shown:
        shown = shown.replace("\\", r"\\").replace('"', r"\"")
    return f'{key}="{shown}"'


def text(sample: Sample) -> str:
    """The metrics as lines of text."""
    families = [*_of_host(sample), *_of_vms(sample), *_of_vifs(sample)]
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _of_host(sample: Sample) -> list[_Family]:
    status = sample.status
    build = _Family("xenbw_build_info", "gauge", "The version of xenbw; the value is always 1.")
    build.set(1, _label("version", __version__))
    waiting = _Family("xenbw_messages_waiting", "gauge", "Messages that are not delivered yet, by channel.")
    for channel, count in sample.waiting.items():
        waiting.set(count, _label("channel", channel))
    families = [
        build,
        waiting,
        _gauge("xenbw_timestamp_seconds", "When these numbers were taken, in Unix time.", int(sample.at.timestamp())),
        _gauge("xenbw_up", "Whether xenbwd runs.", status is not None),
    ]
    return families if status is None else families + _of_daemon(status)


def _of_daemon(status: Mapping[str, Any]) -> list[_Family]:
    book = status.get("book") or {}
    meter = _Family("xenbw_meter_info", "gauge", "The meter in use; the value is always 1.")
    if status.get("meter"):
        meter.set(1, _label("meter", str(status["meter"])))
    gaps = _Family("xenbw_meter_gaps_total", "counter", "How often the kernel's counters bridged a gap in ours.")
    if "meter_gaps" in status:
        gaps.set(status["meter_gaps"])
    problems = status.get("problems")
    degraded = bool(status["meter_reason"]) if "meter_reason" in status else None
    return [
        meter,
        gaps,
        _gauge("xenbw_meter_degraded", "Whether a better meter than the one in use is broken.", degraded),
        _gauge("xenbw_start_time_seconds", "When xenbwd started, in Unix time.", _unix(status.get("started_at"))),
        _gauge(
            "xenbw_last_commit_timestamp_seconds",
            "When counts were last written to the ledger, in Unix time.",
            _unix(status.get("last_commit")),
        ),
        _gauge("xenbw_vifs", "Interfaces that are metered.", status.get("interfaces")),
        _gauge("xenbw_vifs_pending", "Interfaces whose VM is not known yet.", status.get("pending_vifs")),
        _gauge("xenbw_null_routes", "Addresses that are null-routed.", status.get("null_routes")),
        _gauge("xenbw_problems", "Problems that `xenbw status` lists.", None if problems is None else len(problems)),
        _gauge("xenbw_clock_trusted", "Whether periods may begin and end by the clock.", status.get("clock_trusted")),
        _gauge("xenbw_book_backlog_records", "Records that the book lacks.", book.get("backlog")),
        _gauge(
            "xenbw_book_current_timestamp_seconds",
            "When the book last lacked nothing, in Unix time.",
            _unix(book.get("current_at")),
        ),
    ]


def _gauge(name: str, text: str, value: int | None) -> _Family:
    family = _Family(name, "gauge", text)
    if value is not None:
        family.set(value)
    return family


def _unix(moment: str | None) -> int | None:
    return None if moment is None else int(datetime.fromisoformat(moment).timestamp())


def _of_vms(sample: Sample) -> list[_Family]:
    usage = _Family(
        "xenbw_vm_usage_bytes_total",
        "counter",
        "Bytes to the VM (in) and from it (out) on this host that count; begins anew with each period.",
    )
    used = _Family(
        "xenbw_vm_used_bytes", "gauge", "What the allowance counts of the usage in this period, on all hosts."
    )
    allowance = _Family("xenbw_vm_allowance_bytes", "gauge", "The VM's allowance; absent if it is unlimited.")
    hard = _Family("xenbw_vm_hard_limit_bytes", "gauge", "Where the VM is blocked whatever its action; absent if none.")
    crosses = _Family(
        "xenbw_vm_forecast_timestamp_seconds",
        "gauge",
        "When the VM will cross its allowance, as last announced, in Unix time; absent without a forecast.",
    )
    start = _Family("xenbw_vm_period_start_timestamp_seconds", "gauge", "When the VM's period began, in Unix time.")
    end = _Family("xenbw_vm_period_end_timestamp_seconds", "gauge", "When the VM's period ends, in Unix time.")
    states = _Family("xenbw_vm_state", "gauge", "1 for the state that the VM is in, 0 for the others.")
    for entry, here, state, used_bytes in _shown_vms(sample):
        vm = _label("vm", entry.vm.name)
        usage.set(here.in_bytes, f'{vm},direction="in"')
        usage.set(here.out_bytes, f'{vm},direction="out"')
        used.set(used_bytes, vm)
        if entry.allowance.limit_bytes is not None:
            allowance.set(entry.allowance.limit_bytes, vm)
        if entry.allowance.hard_limit_bytes is not None:
            hard.set(entry.allowance.hard_limit_bytes, vm)
        if entry.vm.forecast_at is not None:
            crosses.set(int(entry.vm.forecast_at.timestamp()), vm)
        start.set(int(entry.period.start.timestamp()), vm)
        end.set(int(entry.period.end.timestamp()), vm)
        for one in State:
            states.set(one is state, f'{vm},state="{one.value}"')
    return [usage, used, allowance, hard, crosses, start, end, states]


def _shown_vms(sample: Sample) -> Iterator[tuple[Entry, Counters, State, int]]:
    """Each VM with its usage on this host, its state, and its used bytes on all hosts."""
    running = {vif.vm_id for vif in sample.vifs}
    for vm_id, entry in sample.entries.items():
        here, unseen = sample.here.get(vm_id, ZERO), sample.unseen.get(vm_id)
        if not (vm_id in running or unseen is not None or entry.vm.added_at or any(here)):
            continue
        standing = quota.stand(entry.vm, entry.allowance, entry.enforced, entry.used(here), entry.period)
        if unseen is not None:
            # A VM that has got a vif since the last survey is metered, though the survey says otherwise.
            wholly = unseen.wholly and vm_id not in running
            standing = quota.as_seen(standing, unseen.reason, wholly=wholly)
        yield entry, here, standing.state, standing.verdict.used_bytes


def _of_vifs(sample: Sample) -> list[_Family]:
    receive = _Family("xenbw_vif_receive_bytes_total", "counter", "Bytes that the guest received on this vif.")
    transmit = _Family("xenbw_vif_transmit_bytes_total", "counter", "Bytes that the guest sent on this vif.")
    refused = _Family("xenbw_vif_refused_bytes_total", "counter", "Bytes to the guest (in) and from it (out) refused.")
    flood = _Family("xenbw_vif_flood_bytes_total", "counter", "Bytes that a bridge flooded to this vif.")
    # While a VM restarts or migrates on this host, it has two domains.
    for vif in sorted(sample.vifs, key=lambda vif: vif.domid):
        if vif.vm_id not in sample.entries:
            continue
        counted = vif.counted
        labels = f'{_label("vm", sample.entries[vif.vm_id].vm.name)},devid="{vif.devid}",kind="{vif.kind.value}"'
        receive.set(counted.in_bytes, labels)
        transmit.set(counted.out_bytes, labels)
        refused.set(counted.refused_in_bytes, f'{labels},direction="in"')
        refused.set(counted.refused_out_bytes, f'{labels},direction="out"')
        flood.set(counted.flood_bytes, labels)
    return [receive, transmit, refused, flood]
