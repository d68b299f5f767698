"""Read the accounts of VMs from the ledger, for the commands that show them."""

from __future__ import annotations

from xenbw import quota
from xenbw.cli.command import Context
from xenbw.clock import boot_id
from xenbw.errors import XenbwError
from xenbw.judge.roster import Roster
from xenbw.ledger import unmetered
from xenbw.ledger.ledger import Ledger
from xenbw.model import ZERO
from xenbw.report.account import Account
from xenbw.rundir import control


def freshen(context: Context) -> str | None:
    """Have the daemon write its latest counts to the ledger. Returns why the ledger's numbers may be old, or None."""
    try:
        answer = control.ask(context.settings.daemon.run_dir, "commit", timeout=2)
    except XenbwError as error:
        return f"{error.message}: these numbers are as of its last commit"
    if answer.get("ok") is False:
        return "xenbwd could not write to the ledger: these numbers are as of its last commit (xenbw status)"
    return None


def roster(ledger: Ledger, context: Context) -> Roster:
    """The VMs with their periods."""
    found, moment = Roster(ledger, context.settings, record=False), context.moment(ledger)
    found.load(moment)
    found.roll(moment)
    return found


def accounts(ledger: Ledger, vms: Roster) -> dict[int, Account]:
    """Every VM's account by its id, in the order of names."""
    usage, here = vms.usage(), boot_id()
    running = {binding.vm_id for binding in ledger.live_bindings().values() if binding.boot_id == here}
    # A VM that has got a vif since the last survey is metered, though the survey says otherwise.
    unseen = {id_: one for id_, one in unmetered.known(ledger, here).items() if not (one.wholly and id_ in running)}
    found = {}
    for vm_id, entry in vms.entries.items():
        used = entry.used(usage.get(vm_id, ZERO))
        standing = quota.stand(entry.vm, entry.allowance, entry.enforced, used, entry.period)
        if vm_id in unseen:
            standing = quota.as_seen(standing, unseen[vm_id].reason, wholly=unseen[vm_id].wholly)
        runs = vm_id in running or vm_id in unseen
        found[vm_id] = Account(entry.vm, entry.allowance, entry.period, used, standing, runs)
    return found
