"""The questions that addvm asks at a terminal."""

from __future__ import annotations

from collections.abc import Callable

from xenbw.cli import terms
from xenbw.cli.host import Guests, Sighting
from xenbw.cli.names import vm_name
from xenbw.cli.terminal import ask, confirm, say, stopped
from xenbw.cli.terms import Terms
from xenbw.config import Settings
from xenbw.judge.roster import allowance_of
from xenbw.model import VM
from xenbw.text import printable
from xenbw.units import format_size


def ask_name(listed: Guests, added: Callable[[str], bool], look: Callable[[str], Sighting]) -> Sighting:
    """Ask which VM to add, again and again until `look` finds it."""
    missing = [name for name in listed.names if not added(name)]
    if listed.problem:
        say(printable(str(listed.problem)))
    elif missing:
        say(f"VMs not added yet: {printable(', '.join(missing))}")
    else:
        say("every running VM is added already")
    return ask("VM name", lambda answer: look(vm_name(answer)))


def ask_terms(name: str, vm: VM | None, given: Terms, settings: Settings) -> Terms:
    """`given`, completed with limit and reset day from the terminal. Enter keeps the VM's values, or those of
    [default]."""
    default = settings.default_allowance
    present = default if vm is None else allowance_of(vm, default)
    terms_now = dict(given)
    if "unlimited" not in given:
        kept = "" if present.limit_bytes is None else format_size(present.limit_bytes)
        terms_now |= ask(
            "bandwidth limit in GB (or like 1.5TB, or unlimited)",
            lambda answer: {} if kept and not answer else terms.limit(answer),
            kept,
        )
    if "reset_day" not in given:
        terms_now |= ask(
            "reset day, 1 to 31",
            lambda answer: {"reset_day": terms.reset_day(answer)} if answer else {},
            str(present.reset_day),
        )
    limit = terms_now.get("limit_bytes", None if "unlimited" in terms_now else present.limit_bytes)
    size = format_size(limit) if isinstance(limit, int) else "unlimited"
    day = terms_now.get("reset_day", present.reset_day)
    if not confirm(f"{'Change' if vm else 'Add'} {name}: limit {size}, reset on day {day}?", default=True):
        raise stopped()
    return terms_now
