"""The null routes that the ledger asks for, and the networks that never get one."""

from __future__ import annotations

from xenbw.cli.command import Context
from xenbw.clock import boot_id
from xenbw.enforce import desired
from xenbw.enforce.protect import Protected, last_known
from xenbw.judge.roster import Roster
from xenbw.ledger import viflog
from xenbw.ledger.ledger import Ledger
from xenbw.model import Address, Network


def protected(ledger: Ledger | None, context: Context) -> frozenset[Network]:
    """The networks that are never blocked: those of the configuration, dom0's own, its resolvers, and the others that
    were when blocks were last enforced."""
    known = Protected(context.run, last_known(ledger) if ledger else ())
    known.look_here()
    return known.networks | set(context.settings.enforce.protect)


def null_routes(ledger: Ledger, vms: Roster, context: Context) -> dict[Address, str]:
    """The null routes that the ledger asks for, address -> name of the VM, in the order of addresses."""
    latest = desired.present(viflog.latest(ledger), boot_id())
    routes = desired.plan(desired.holders(vms, ledger.active_blocks(), latest), protected(ledger, context)).null_routes
    return {address: routes[address] for address in sorted(routes, key=lambda known: (known.version, int(known)))}
