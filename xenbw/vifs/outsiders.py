"""The running VMs whose traffic this dom0 does not see, or not all of it: what surveys of xenstore find, in the ledger.

Their standing is judged by what was counted, as everyone's: nobody is blocked or released because he is not seen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from xenbw.ledger import unmetered
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.unmetered import Unmetered
from xenbw.text import base_name
from xenbw.xen.survey import Outside
from xenbw.xen.xenstore import Survey

log = logging.getLogger(__name__)

# How long a domain may be without any vif before it counts as one that has none: while it is being built it is named
# already, and its devices come last (libxl_create.c, domcreate_attach_devices).
_BEING_BUILT = timedelta(seconds=20)
# How long a domain is taken to migrate if it has a name such as xl gives those that do: it gets no vif before all of
# its memory is there.
_MIGRATING = timedelta(hours=1)
_EVER = datetime.min.replace(tzinfo=UTC)


class Outsiders:
    """What the ledger has of them, written when it changes."""

    def __init__(self, ledger: Ledger, boot_id: str) -> None:
        self._ledger, self._boot_id = ledger, boot_id
        self._known: Mapping[int, Unmetered] | None = None
        # Since when a domid has been without a vif.
        self._bare: Mapping[int, datetime] = {}
        # Since when a domid has had a name such as those that migrate have.
        self._moving: Mapping[int, datetime] = {}
        self._trouble = ""

    def hear(self, survey: Survey, at: datetime) -> bool:
        """Take over what a survey found. Whether that brought VMs that nobody knew. Raises LedgerError."""
        if survey.error is not None:
            # Each minute would say the same.
            if self._trouble != str(survey.error):
                log.warning("xenstore: %s; who is unmetered stays as it was last found", survey.error)
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
            # Of two domains of a VM, as in a migration to its own host, the one that is seen tells more.
            if vm.id not in found or domain.here:
                found[vm.id] = Unmetered(not domain.here, _reason(domain))
                if found[vm.id] != known.get(vm.id):
                    log.info("%s: not metered: %s", vm.name, found[vm.id].reason)
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
