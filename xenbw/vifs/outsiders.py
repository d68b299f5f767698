"""Running VMs whose traffic this dom0 does not see, or not all of it: surveys of xenstore find them.

They are judged by what was counted, as all VMs are: no VM is blocked or released because it is not seen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from xenbw.ledger import unmetered
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.unmetered import Unmetered
from xenbw.tell.journal import about
from xenbw.text import base_name
from xenbw.xen.survey import Outside
from xenbw.xen.xenstore import Survey

log = logging.getLogger(__name__)

# How long a domain may be without a vif before it counts as unmetered: while it is built it has its name already, and
# its devices come last (libxl_create.c, domcreate_attach_devices).
_BEING_BUILT = timedelta(seconds=20)
# How long a domain with a name that xl gives to migrating domains is taken to migrate: it gets no vif before all of its
# memory is there.
_MIGRATING = timedelta(hours=1)
_EVER = datetime.min.replace(tzinfo=UTC)


class Outsiders:
    """The unmetered VMs in the ledger, which are written when they change."""

    def __init__(self, ledger: Ledger, boot_id: str) -> None:
        self._ledger, self._boot_id = ledger, boot_id
        self._known: Mapping[int, Unmetered] | None = None
        # Since when each domid has been without a vif.
        self._bare: Mapping[int, datetime] = {}
        # Since when each domid has had the name of a migrating domain.
        self._moving: Mapping[int, datetime] = {}
        self._trouble = ""

    def hear(self, survey: Survey, at: datetime) -> bool:
        """Write what a survey found into the ledger. Returns whether that brought new VMs. Raises LedgerError."""
        if survey.error is not None:
            # Each survey would log the same line.
            if self._trouble != str(survey.error):
                log.warning("xenstore: %s; the list of unmetered VMs stays as it was", survey.error)
            self._trouble = str(survey.error)
            return False
        self._trouble = ""
        known = self._known
        if known is None:
            known = unmetered.known(self._ledger, self._boot_id)
        found: dict[int, Unmetered] = {}
        met = False
        self._bare = {domain.domid: self._bare.get(domain.domid, at) for domain in survey.domains if _is_bare(domain)}
        moving = [domain.domid for domain in survey.domains if _called(domain) != base_name(_called(domain))]
        self._moving = {domid: self._moving.get(domid, at) for domid in moving}
        for domain in survey.domains:
            name = _called(domain)
            if at - self._moving.get(domain.domid, _EVER) < _MIGRATING:
                continue
            vm = self._ledger.vm_named(name)
            if (vm is None or vm.id not in known) and at - self._bare.get(domain.domid, _EVER) < _BEING_BUILT:
                continue
            met = met or vm is None
            vm = vm or self._ledger.meet(name, at)
            # A VM has two domains while it migrates to its own host: the one with a vif here tells more.
            if vm.id not in found or domain.here:
                found[vm.id] = Unmetered(not domain.here, _reason(domain))
                if found[vm.id] != known.get(vm.id):
                    log.info("%s: not metered: %s", vm.name, found[vm.id].reason, extra=about("unmetered", vm.name))
        if found != known:
            unmetered.keep(self._ledger, self._boot_id, found)
        self._known = found
        return met


def _called(domain: Outside) -> str:
    return domain.called or domain.name


def _is_bare(domain: Outside) -> bool:
    return not domain.here and not domain.elsewhere


def _reason(domain: Outside) -> str:
    if not domain.elsewhere:
        return "it has no vif in this dom0: none at all, or a NIC of its own by PCI passthrough"
    vifs = ", ".join(
        f"its vif {devid} is in driver domain {driver}" + (f" ({name})" if name else "")
        for devid, driver, name in domain.elsewhere
    )
    return f"{vifs}, and only what passes through this dom0 is seen" if domain.here else f"{vifs}, not in this dom0"
