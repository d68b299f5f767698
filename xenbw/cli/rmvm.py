"""xenbw rmvm: remove a VM and its allowance, and keep its history."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from xenbw.cli.apply import apply
from xenbw.cli.command import Command, Context
from xenbw.cli.names import find, name_argument
from xenbw.cli.terminal import attended, confirm, say, stopped
from xenbw.clock import boot_id
from xenbw.errors import UsageError
from xenbw.ledger import vmlog
from xenbw.text import printable


def arguments(parser: ArgumentParser) -> None:
    name_argument(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(options: Namespace, context: Context) -> int:
    with context.ledger() as ledger:
        vm = find(ledger, options.name)
        if not options.yes and not attended():
            raise UsageError(f"{vm.name}: not removed: no terminal to ask on", "--yes removes it without asking")
        if not options.yes and not confirm(f"Remove {vm.name} and its allowance? Its history stays", default=False):
            raise stopped()
        here = boot_id()
        running = any(b.vm_id == vm.id and b.boot_id == here for b in ledger.live_bindings().values())
        at = context.moment(ledger).at
        with ledger.transaction():
            ledger.record(at, "removed", f"{vm.name} removed by the admin", vm.id)
            vmlog.retire(ledger, vm.id, at)
        still = "; it runs, and is still metered as a VM that nobody added" if running else ""
        say(printable(f"{vm.name}: removed{still}"))
        apply(ledger, context)
    return 0


COMMAND = Command(arguments, run)
