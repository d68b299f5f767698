"""Names of VMs as an admin types them."""

from __future__ import annotations

import difflib
import os
from argparse import ArgumentParser
from collections.abc import Collection, Iterable

from xenbw.errors import UsageError, XenbwError
from xenbw.ledger import vmlog
from xenbw.ledger.ledger import Ledger
from xenbw.model import VM
from xenbw.text import base_name, decode
from xenbw.units import format_time


def vm_name(typed: str) -> str:
    """A VM's name from a command line argument, decoded like the toolstack's output. Blanks belong to the name. Raises
    UsageError."""
    name = decode(os.fsencode(typed))
    if not name.strip():
        raise UsageError("the name of a VM is empty", "xenbw list shows the VMs known here")
    if name.strip() == "Domain-0":
        raise UsageError("Domain-0 is not a VM", "xenbw list shows the VMs known here")
    return name


def meant(name: str, names: Collection[str]) -> str:
    """The name in `names` that the admin means by `name`: the same name, else the only one that differs in blanks at
    its ends, which no screen shows, else the name without xl's migration suffix; `name` if none matches."""
    if name in names:
        return name
    alike = [one for one in names if one.strip() == name.strip()]
    if len(alike) == 1:
        return alike[0]
    return base_name(name) if base_name(name) in names else name


def name_argument(parser: ArgumentParser) -> None:
    """Add the argument VM, which most commands take."""
    parser.add_argument("name", metavar="VM", type=vm_name, help="the VM's name, as xl list prints it")


def near(name: str, names: Iterable[str]) -> str:
    """A hint with up to five names that are similar to `name`; "" if none is."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = [by_lower[found] for found in difflib.get_close_matches(name.lower(), by_lower, 5)]
    return f"did you mean {', '.join(close)}?" if close else ""


def find(ledger: Ledger, name: str) -> VM:
    """The VM of that name. Raises XenbwError with a hint of similar names, or of where a removed VM's usage is."""
    known = [vm.name for vm in ledger.vms().values()]
    vm = ledger.vm_named(meant(name, known))
    if vm is None:
        raise _unknown(ledger, name, known)
    return vm


def _unknown(ledger: Ledger, name: str, known: Iterable[str]) -> XenbwError:
    removed_at = vmlog.removed_at(ledger, name)
    if removed_at is None:
        return XenbwError(f"no VM named {name!r} is known", near(name, known) or "xenbw list shows the VMs known here")
    return XenbwError(
        f"the VM {name!r} was removed at {format_time(removed_at)}",
        "commands show present VMs only; its usage is in xenbw export, and in the book",
    )
