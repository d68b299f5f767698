"""Making what was written to the ledger hold at once: by the daemon, or by ourselves where none runs."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from xenbw.allow import Exceptions
from xenbw.blocks import latch
from xenbw.cli.command import Context
from xenbw.cli.terminal import warn
from xenbw.clock import boot_id
from xenbw.enforce import desired
from xenbw.enforce.protect import Protected, last_known
from xenbw.enforce.reconcile import Guard, Method, holders
from xenbw.errors import XenbwError
from xenbw.judge.roster import Roster
from xenbw.ledger import viflog
from xenbw.ledger.ledger import Ledger
from xenbw.meters import metering
from xenbw.model import Address, Binding, Network
from xenbw.rundir import control
from xenbw.rundir.control import NoDaemonError

Methods = Callable[[], Sequence[Method]]
Sealer = Callable[[Iterable[Binding], Container[int], Exceptions], str | None]
Latcher = Callable[[Path, str, Iterable[Binding], Container[int], Mapping[int, int], Exceptions], str | None]


def iptables() -> Sequence[Method]:
    """The ways to block that every dom0 has."""
    # python-iptables takes 0.25 s to import, and is wanted only where no daemon runs.
    from xenbw.blocks.iptables import Iptables

    return [Iptables(4), Iptables(6)]


def apply(
    ledger: Ledger,
    context: Context,
    methods: Methods = iptables,
    sealer: Sealer = metering.seal,
    latcher: Latcher = latch.keep,
) -> bool:
    """Have the ledger's new state judged and enforced. What stands in the way is said on standard error: the change is
    written, and the daemon keeps trying. Whether nothing does."""
    run_dir = context.settings.daemon.run_dir
    try:
        control.ask(run_dir, "sync", timeout=10)
        problems = control.ask(run_dir, "status").get("problems", [])
    except NoDaemonError:
        problems = _enforce(ledger, context, methods(), sealer, latcher)
        warn("xenbwd is not running: this holds, but nothing is metered until it runs (systemctl start xenbwd)")
    except XenbwError as error:
        problems = [f"{error.message}: the change is written and holds once xenbwd reads it (systemctl status xenbwd)"]
    for problem in problems:
        warn(f"! {problem}")
    return not problems


def protected(ledger: Ledger | None, context: Context) -> frozenset[Network]:
    """The networks that are never blocked: those of the configuration, dom0's own, its resolvers, and the others that
    were when blocks were last enforced."""
    known = Protected(context.run, last_known(ledger) if ledger else ())
    known.look_here()
    return known.networks | set(context.settings.enforce.protect)


def null_routes(ledger: Ledger, vms: Roster, context: Context) -> dict[Address, str]:
    """The null routes that the ledger asks for, address -> name of the VM, in the order of addresses."""
    plan = desired.plan(holders(vms, ledger.active_blocks(), viflog.latest(ledger)), protected(ledger, context))
    routes = plan.desired.null_routes
    return {address: routes[address] for address in sorted(routes, key=lambda known: (known.version, int(known)))}


def _enforce(
    ledger: Ledger, context: Context, methods: Sequence[Method], sealer: Sealer, latcher: Latcher
) -> list[str]:
    """Judge and enforce as the daemon would; returns what stands in the way."""
    moment = context.moment(ledger)
    vms = Roster(ledger, context.settings, record=False)
    vms.load(moment)
    vms.roll(moment)
    unusable = {method.name: reason for method in methods if (reason := method.probe()) is not None}
    guard = Guard(ledger, context.settings, [method for method in methods if method.name not in unusable])
    known = Protected(context.run, last_known(ledger))
    known.refresh(context.settings.helpers, context.settings.mongodb.uri)
    guard.protect = known.networks | set(context.settings.enforce.protect)
    guard.judge(vms, vms.usage(), list(vms.entries), moment)
    failed = [str(guard.failure)] if guard.failure else []
    here = boot_id()

    def seal() -> None:
        present = [binding for binding in ledger.live_bindings().values() if binding.boot_id == here]
        unsealed = sealer(present, guard.blocked, guard.allow)
        if unsealed is not None:
            failed.append(f"the interfaces are not sealed: {unsealed}")

    guard.seal, guard.latch = seal, partial(latcher, context.settings.daemon.run_dir, here)
    guard.enforce(vms, moment)
    failed += [*guard.problems, *known.problems]
    return [*failed, *(reason for reason in unusable.values() if guard.plan.desired.null_routes)]
