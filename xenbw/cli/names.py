"""VMs' names as an admin types them."""

from __future__ import annotations

import difflib
import os
from argparse import ArgumentParser
from collections.abc import Collection, Iterable

from xenbw.errors import UsageError, XenbwError
from xenbw.ledger.ledger import Ledger
from xenbw.model import VM
from xenbw.text import base_name, decode


def vm_name(typed: str) -> str:
    """A VM's name from a command line argument, in the spelling that the toolstack's output gets; blanks are a part of
    it. Raises UsageError."""
    name = decode(os.fsencode(typed))
    if not name.strip():
        raise UsageError("the name of a VM is empty", "xenbw list shows the VMs known here")
    if name.strip() == "Domain-0":
        raise UsageError("Domain-0 is not a VM", "xenbw list shows the VMs known here")
    return name


def meant(name: str, names: Collection[str]) -> str:
    """The one of `names` that somebody means who types `name`: the very same, else the only one that differs by blanks
    at its ends, which no screen shows, else the VM that migrates under that name; `name` if there is none."""
    if name in names:
        return name
    alike = [one for one in names if one.strip() == name.strip()]
    if len(alike) == 1:
        return alike[0]
    return base_name(name) if base_name(name) in names else name


def name_argument(parser: ArgumentParser) -> None:
    """The one argument that most commands take."""
    parser.add_argument("name", metavar="VM", type=vm_name, help="the VM's name, as xl list prints it")


def near(name: str, names: Iterable[str]) -> str:
    """Up to five names that may have been meant, as a hint; "" where none is near."""
    by_lower = {candidate.lower(): candidate for candidate in names}
    close = [by_lower[found] for found in difflib.get_close_matches(name.lower(), by_lower, 5)]
    return f"did you mean {', '.join(close)}?" if close else ""


def find(ledger: Ledger, name: str) -> VM:
    """The VM of that name. Raises XenbwError naming those that are near."""
    known = [vm.name for vm in ledger.vms().values()]
    vm = ledger.vm_named(meant(name, known))
    if vm is None:
        raise XenbwError(f"no VM named {name!r} is known", near(name, known) or "xenbw list shows the VMs known here")
    return vm
