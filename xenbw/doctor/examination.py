"""The list of checks, in the order in which they are printed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from xenbw.doctor import (
    bridges,
    drops,
    hook,
    legacy,
    null_sets,
    proof,
    rig,
    ruleset,
    saved,
    service,
    system,
    throttling,
    tripping,
)
from xenbw.doctor.finding import Finding, bad
from xenbw.doctor.host import Host
from xenbw.errors import XenbwError
from xenbw.vifs import interfaces

_Look = Callable[[Host], Iterator[Finding]]

_TOPICS: tuple[tuple[str, _Look], ...] = (
    ("xen", system.xen),
    ("kernel", system.kernel),
    ("units", system.units),
    ("daemon", service.daemon),
    ("hook", hook.files),
    ("vif scripts", hook.scripts),
    ("firewall", legacy.look),
    ("firewall", null_sets.look),
    ("iptables", ruleset.look),
    ("saved rules", saved.look),
    ("bridges", bridges.filtering),
    ("bridges", bridges.flooding),
    ("meter", bridges.shaping),
    ("seal", drops.look),
    ("clock", system.clock),
    ("ledger", service.ledger),
    ("book", service.book),
)


def examine(host: Host, bridge: str | None) -> Generator[Finding, None, None]:
    """Every finding. Test packets are sent on a bridge in a namespace, and on `bridge` if one is named."""
    for topic, look in (*_TOPICS, ("packets", _own), *([("packets", _on(bridge))] if bridge else [])):
        yield from _guarded(topic, look, host)


def _guarded(topic: str, look: _Look, host: Host) -> Iterator[Finding]:
    """A check that fails with an error becomes a finding, so that the other checks still run."""
    try:
        yield from look(host)
    except XenbwError as error:
        yield bad(topic, error.message, error.hint or "xenbw status may show more")
    except OSError as error:
        yield bad(topic, f"{error.filename or 'the system'}: {error.strerror}", "journalctl -k may show more")


def _own(host: Host) -> Iterator[Finding]:
    with rig.own(host.run) as trial:
        yield from proof.of_meter_and_seal(trial, "trial bridge")
        yield from tripping.of_tripwire(trial)
        yield from throttling.of_throttle(trial)
        yield from proof.of_null_route(trial, host.method, filtered=interfaces.bridge_filtered(4))


def _on(bridge: str) -> _Look:
    def look(host: Host) -> Iterator[Finding]:
        with rig.on(bridge, host.run, host.settings.daemon.run_dir) as trial:
            yield from proof.of_meter_and_seal(trial, bridge)

    return look
