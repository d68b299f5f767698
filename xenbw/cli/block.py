"""xenbw block: block a VM by hand."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from xenbw import checks
from xenbw.cli.accounts import roster
from xenbw.cli.apply import apply
from xenbw.cli.command import Command, Context
from xenbw.cli.names import find, name_argument
from xenbw.cli.routes import null_routes
from xenbw.cli.terminal import say
from xenbw.text import printable


def arguments(parser: ArgumentParser) -> None:
    name_argument(parser)
    parser.add_argument("--reason", metavar="TEXT", default="blocked by the admin", help="what show, list and mail say")


def run(options: Namespace, context: Context) -> int:
    reason = checks.reason(printable(options.reason.strip()) or "blocked by the admin")
    with context.ledger() as ledger:
        vm = find(ledger, options.name)
        ledger.set_vm(vm.id, blocked_reason=reason)
        held = apply(ledger, context)
        routes = null_routes(ledger, roster(ledger, context), context)
    addresses = ", ".join(str(address) for address, name in routes.items() if name == vm.name)
    if not addresses:
        outcome = "but nothing is null-routed: the VM has no known address that may be blocked"
    else:
        outcome = f"null-routed: {addresses}" if held else f"to be null-routed, see the problems: {addresses}"
    say(printable(f"{vm.name}: blocked, {outcome}"))
    return 0


COMMAND = Command(arguments, run)
