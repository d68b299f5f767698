"""Check the host itself: Xen, a kernel with nft's hooks, units that start at boot, a synchronised clock."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from xenbw.clock import synchronised
from xenbw.config import Settings
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.host import Host
from xenbw.errors import XenbwError
from xenbw.runner import CommandError, Runner
from xenbw.xen import toolstack
from xenbw.xen.xenstore import XenStore

_XENSTORED = "systemctl status xen.service"
_SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
_PATIENCE = 5.0
# The first kernel whose nft sees packets that leave an interface (linux commit 42df6e1d221d, "Introduce egress hook").
_EGRESS = (5, 16)


def xen(host: Host) -> Iterator[Finding]:
    """Whether the toolstack and xenstored answer."""
    try:
        tools = toolstack.detect(host.settings.toolstack.command, host.run)
        running = toolstack.guests(tools.list(_PATIENCE))
        yield good("xen", f"{tools.command} lists {len(running)} VMs")
    except XenbwError as error:
        yield bad("xen", error.message, error.hint or "apt install xen-utils")
    try:
        with XenStore(timeout=_PATIENCE) as store:
            answers = store.read("/local/domain/0/name") is not None or bool(store.numbers("/local/domain"))
    except XenbwError as error:
        text = f"{error.message}: xenbw cannot tell which VM an interface belongs to"
        yield bad("xen", text, error.hint or _XENSTORED)
        return
    if answers:
        yield good("xen", "xenstored answers")
    else:
        yield bad("xen", "xenstored knows no domain at all, not even dom0", _XENSTORED)


def kernel(_host: Host) -> Iterator[Finding]:
    yield judge_kernel(os.uname().release)


def judge_kernel(release: str) -> Finding:
    """release: as uname -r prints it."""
    if has_egress_hook(release):
        return good("kernel", f"linux {release} lets nft count both ways on an interface")
    return doubt(
        "kernel",
        f"linux {release} has no egress hook for nft (it came with 5.16): xenbw uses the kernel meter, which misses the"
        " last bytes of a VM that stops, and no interface can be sealed",
        "boot a newer kernel; until then, modprobe br_netfilter makes null routes hold on bridges",
    )


def has_egress_hook(release: str) -> bool:
    """Whether the kernel of that release has the hook that the nft meter and the seal need."""
    numbers = re.match(r"(\d+)\.(\d+)", release, re.ASCII)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _EGRESS


def clock(host: Host) -> Iterator[Finding]:
    yield judge_clock(synchronised=synchronised(host.run, timeout=_PATIENCE))


def judge_clock(*, synchronised: bool) -> Finding:
    if synchronised:
        return good("clock", "synchronised")
    return doubt(
        "clock",
        "it is not known to be synchronised, and periods begin and end by it",
        "timedatectl set-ntp true, or install chrony; timedatectl shows whether it works",
    )


def units(host: Host) -> Iterator[Finding]:
    if not _SYSTEMD.is_dir():
        fix = "make sure that xenbwd starts at boot, and restarts if it ends"
        yield doubt("units", "this host was not booted by systemd", fix)
        return
    yield from judge_units({unit: _enabled(unit, host.run) for unit in wanted(host.settings)})


def wanted(settings: Settings) -> list[str]:
    """The units that must be enabled with this configuration."""
    # The path unit starts the service that runs sendmail and commands, and calls webhooks.
    by_service = settings.command.run or (settings.mail.to and settings.mail.sendmail) or settings.webhook
    units = {"xenbwd.service": True, "xenbw-notify.path": by_service, "xenbw-report.timer": settings.report.dir}
    return [unit for unit, is_needed in units.items() if is_needed]


def judge_units(enabled: Mapping[str, bool]) -> list[Finding]:
    missing: Collection[str] = [unit for unit, is_enabled in enabled.items() if not is_enabled]
    if not missing:
        return [good("units", f"enabled: {', '.join(enabled)}")]
    return [
        bad("units", f"{unit} is not enabled: it does not start at boot", f"systemctl enable --now {unit}")
        for unit in missing
    ]


def _enabled(unit: str, run: Runner) -> bool:
    if shutil.which("systemctl") is None:
        return False
    try:
        return run(["systemctl", "--quiet", "is-enabled", unit], timeout=_PATIENCE).status == 0
    except CommandError:
        return False
