"""Making what was written to the ledger hold at once: by the daemon, or by ourselves where none runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress

from xenbw.blocks.block import Block
from xenbw.blocks.registry import REGISTRY, THROTTLE, Means, blocks
from xenbw.cli.command import Context
from xenbw.cli.terminal import warn
from xenbw.clock import boot_id
from xenbw.enforce.desired import Present
from xenbw.enforce.protect import Protected, last_known
from xenbw.enforce.reconcile import Reconciler, over_path
from xenbw.errors import MeterError, XenbwError
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger import viflog
from xenbw.ledger.ledger import Ledger
from xenbw.meters.nft import uncredited
from xenbw.model import ZERO, Binding, Counters, State
from xenbw.nft import nft
from xenbw.nft.chains import Chains
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Tables
from xenbw.rundir import control, overfile
from xenbw.rundir.control import NoDaemonError

Make = Callable[[Means], Sequence[Block]]


def apply(ledger: Ledger, context: Context, make: Make = blocks) -> bool:
    """Have the ledger's new state judged and enforced, by `make`'s blocks where no daemon runs. What stands in the way
    is said on standard error: the change is written, and the daemon keeps trying. Whether nothing does."""
    run_dir = context.settings.daemon.run_dir
    try:
        control.ask(run_dir, "sync", timeout=10)
        problems = control.ask(run_dir, "status").get("problems", [])
    except NoDaemonError:
        problems = _enforce(ledger, context, make)
        warn("xenbwd is not running: this holds, but nothing is metered until it runs (systemctl start xenbwd)")
    except XenbwError as error:
        problems = [f"{error.message}: the change is written and holds once xenbwd reads it (systemctl status xenbwd)"]
    for problem in problems:
        warn(f"! {problem}")
    return not problems


def _add_uncredited(
    usage: dict[int, Counters], ledger: Ledger, bound: Sequence[Binding], boot_id: str, counted: Mapping[str, int]
) -> None:
    """Add the usage that is in our counters only: the kernel's tripwires have it counted."""
    gone = [life[2] for life in map(nft.life_of, {name.rpartition("-")[0] for name in counted}) if life is not None]
    for vm_id, grown in uncredited([*bound, *viflog.ended(ledger, boot_id, gone)], counted).items():
        usage[vm_id] = usage.get(vm_id, ZERO).plus(grown)


def throttle_problem(context: Context) -> str | None:
    """Why no VM can be throttled on this host, or None: as the daemon says, or by a trial where no daemon runs."""
    run_dir = context.settings.daemon.run_dir
    try:
        problem: str | None = control.ask(run_dir, "status").get("throttle_problem")
    except NoDaemonError:
        with closing(Tables(hand_to_nft)) as tables:
            return REGISTRY[THROTTLE].make(Means(tables, Chains(tables), Quotas(tables), str(run_dir))).probe()
    except XenbwError:
        return None  # a daemon that does not answer: it says so itself once it does
    return problem


def _enforce(ledger: Ledger, context: Context, make: Make) -> list[str]:
    """Judge and enforce as the daemon would; returns what stands in the way."""
    moment = context.moment(ledger)
    vms = Roster(ledger, context.settings, record=False)
    vms.load(moment)
    vms.roll(moment)
    known = Protected(context.run, last_known(ledger))
    known.refresh(context.settings.helpers, context.settings.mongodb.uri)
    judge, here, usage = Judge(ledger, context.settings), boot_id(), vms.usage()
    judge.judge(vms, usage, list(vms.entries), moment)
    with closing(Tables(hand_to_nft)) as tables:
        quotas = Quotas(tables, complete=True)
        made = make(Means(tables, Chains(tables), quotas, str(context.settings.daemon.run_dir)))
        unusable = {block.name: reason for block in made if (reason := block.probe()) is not None}
        usable = [block for block in made if block.name not in unusable]
        reconciler = Reconciler(ledger, context.settings, judge, usable, here)
        reconciler.choose(tables, context.run)
        reconciler.protect = known.networks | set(context.settings.enforce.protect)
        bound = [binding for binding in ledger.live_bindings().values() if binding.boot_id == here]
        over = overfile.read(str(over_path(context.settings)))
        # The last daemon's meter stays: hooks go on putting counters on vifs for the next one.
        if over is not None and over.nft:
            reconciler.meter = "nft"
            with suppress(MeterError):
                _add_uncredited(usage, ledger, bound, here, quotas.around(tables.of().counters))
        reconciler.reconcile(vms, usage, moment, Present(bound))
    failed = [str(judge.failure)] if judge.failure else []
    failed += [*reconciler.problems, *known.problems]
    # A block that cannot work here is told only if there is something for it to hold.
    needed = {THROTTLE: any(entry.vm.state is State.THROTTLED for entry in vms.entries.values())}
    blocked = bool(reconciler.plan.null_routes)
    return [*failed, *(reason for name, reason in unusable.items() if needed.get(name, blocked))]
