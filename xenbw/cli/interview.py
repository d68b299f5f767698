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
from xenbw.model import VM, Action
from xenbw.text import printable
from xenbw.units import format_size, parse_rate


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


def ask_terms(vm: VM, given: Terms, settings: Settings) -> Terms:
    """`given`, completed with limit and reset day from the terminal, and with the rate of a throttle if none is set.
    Enter keeps the VM's values, or those of [default]."""
    default, added = settings.default_allowance, vm.added_at is not None
    present = allowance_of(vm, default) if added else default
    terms_now = dict(given)
    if "unlimited" not in given:
        kept = "" if present.limit_bytes is None else format_size(present.limit_bytes)

        def understand(answer: str) -> Terms:
            answered = {} if kept and not answer else terms.limit(answer)
            terms.check_limits(terms.changed(vm, given | answered), default)
            return answered

        terms_now |= ask("bandwidth limit in GB (or like 1.5TB, or unlimited)", understand, kept)
    if "reset_day" not in given:
        terms_now |= ask(
            "reset day, 1 to 31",
            lambda answer: {"reset_day": terms.reset_day(answer)} if answer else {},
            str(present.reset_day),
        )
    future = allowance_of(terms.changed(vm, terms_now), default)
    if future.action is Action.THROTTLE and future.rate is None:
        terms_now |= ask("rate to throttle to (like 10Mbit)", lambda answer: {"rate": parse_rate(answer)})
    limit = terms_now.get("limit_bytes", None if "unlimited" in terms_now else present.limit_bytes)
    size = format_size(limit) if isinstance(limit, int) else "unlimited"
    day = terms_now.get("reset_day", present.reset_day)
    if not confirm(f"{'Change' if added else 'Add'} {vm.name}: limit {size}, reset on day {day}?", default=True):
        raise stopped()
    return terms_now
