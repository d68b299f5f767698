"""Check the guests' bridges: whether iptables sees the frames that they forward, and whether they flood to guests."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from xenbw.blocks import null_text
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.host import Host
from xenbw.doctor.system import has_egress_hook
from xenbw.errors import XenbwError
from xenbw.runner import Runner
from xenbw.vifs import interfaces

_TOPIC = "bridges"
_REDIRECTED = "redirect"


def filtering(host: Host) -> Iterator[Finding]:
    """Whether iptables sees what bridges forward."""
    filtered = {version: interfaces.bridge_filtered(version) for version in (4, 6)}
    seals = has_egress_hook(os.uname().release) and not host.status.get("meter_reason")
    yield from judge_filtering(filtered, seals=seals, sets=host.method == null_text.METHOD)


def flooding(host: Host) -> Iterator[Finding]:
    """Which guests get frames that are for others."""
    meter = host.status.get("meter")
    if meter is not None:
        yield from judge_flooding(_flooded(host), meter)


def shaping(host: Host) -> Iterator[Finding]:
    """Whether tc shapes guests in a way that hides their packets from xenbw."""
    yield from judge_shaping(_redirected(host))


def judge_filtering(filtered: Mapping[int, bool], *, seals: bool, sets: bool = False) -> list[Finding]:
    """filtered: by IP version, whether iptables sees what bridges forward. seals: whether interfaces can be sealed.
    sets: whether null routes are in nft's sets."""
    if sets:
        return [good(_TOPIC, "null routes hold there, in nft's table for bridges, besides the seal")]
    if all(filtered.values()):
        return [good(_TOPIC, "iptables sees what bridges forward: null routes hold there, besides the seal")]
    blind = " and ".join(f"IPv{version}" for version, seen in filtered.items() if not seen)
    text = f"iptables does not see {blind} that bridges forward (br_netfilter is off): a null route does not stop it"
    if seals:
        return [good(_TOPIC, f"{text}; the seal does")]
    fix = "modprobe br_netfilter, and sysctl net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1"
    return [bad(_TOPIC, f"{text}, and there is no seal here", fix)]


def judge_flooding(flooded: Collection[str], meter: str) -> list[Finding]:
    """flooded: guests' interfaces that get the frames for addresses the bridge does not know."""
    if not flooded:
        return []
    text = f"{len(flooded)} guests' interfaces get frames for addresses that the bridge does not know"
    if meter == "nft":
        return [good(_TOPIC, f"{text}; these are counted separately and are not usage")]
    fix = f"bridge link set dev {shlex.quote(min(flooded))} flood off, for each of them"
    return [doubt(_TOPIC, f"{text}: with the {meter} meter one guest can use up another's allowance", fix)]


def judge_shaping(redirected: Collection[str]) -> list[Finding]:
    """redirected: guests' interfaces whose packets tc(8) redirects at ingress. tc comes before nft's hook, and
    redirected packets do not return to that hook (linux net/core/dev.c, __netif_receive_skb_core: sch_handle_ingress,
    skip_classify).
    """
    if not redirected:
        return []
    return [
        bad(
            "meter",
            f"tc redirects what comes from {', '.join(sorted(redirected))} before nft sees it: the traffic from these"
            " guests is not metered, and only xenbw's own tc filter, or a link that is down, stops it",
            'set [meter] source = "kernel", or use a tc policer at ingress instead of redirecting to an ifb device',
        )
    ]


def _flooded(host: Host) -> list[str]:
    ports = ask(host.run, "bridge", "-details", "-json", "link", "show")
    ours = {vif.interface for vif in host.vifs}
    return [port["ifname"] for port in ports if port.get("flood") and port.get("ifname") in ours]


def _redirected(host: Host) -> list[str]:
    shaped = {
        qdisc.get("dev")
        for qdisc in ask(host.run, "tc", "-json", "qdisc", "show")
        if qdisc.get("kind") in ("ingress", "clsact")
    }
    return [
        vif.interface
        for vif in host.vifs
        if vif.interface in shaped
        and any(map(redirects, ask(host.run, "tc", "-json", "filter", "show", "dev", vif.interface, "ingress")))
    ]


def redirects(filter_: Mapping[str, Any]) -> bool:
    """Whether a tc filter, as tc -json shows it, redirects packets to another interface."""
    actions = filter_.get("options", {}).get("actions", ())
    return any(_REDIRECTED in str(action.get("mirred_action")) for action in actions)


def ask(run: Runner, *argv: str) -> list[dict[str, Any]]:
    """A list that one of iproute2's commands prints as JSON. Raises XenbwError."""
    answer = run(argv)
    if answer.status != 0:
        raise XenbwError(f"{' '.join(argv)}: exit status {answer.status}", "run it as root to see why")
    found: list[dict[str, Any]] = json.loads(answer.stdout or b"[]")
    return found
