"""Ask this host about a VM: the toolstack's list, its config file, and addresses that no VM may have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from xenbw.cli.command import Context
from xenbw.cli.names import near
from xenbw.config import ToolstackSection
from xenbw.enforce.desired import is_protected
from xenbw.errors import UsageError, XenbwError
from xenbw.model import Address, Binding, Network
from xenbw.report.table import Column, render
from xenbw.xen import domaincfg, domainfind, toolstack, vmnames
from xenbw.xen.domaincfg import DomainConfig

_LIST_LIMIT = 10.0
_THIS_NETWORK = ip_network("0.0.0.0/8")  # RFC 1122, 3.2.1.3: no host's address


@dataclass(frozen=True)
class Guests:
    """The names of the VMs that the toolstack lists, each once (during a migration the list can have a name twice).
    `problem` says why the toolstack could not be asked."""

    names: tuple[str, ...]
    problem: XenbwError | None = None


def guests(context: Context) -> Guests:
    """Ask xl or xm for the domains, and xenstore for their VMs."""
    try:
        tools = toolstack.detect(context.settings.toolstack.command, context.run)
        listed = toolstack.guests(tools.list(timeout=_LIST_LIMIT))
    except XenbwError as error:
        return Guests((), error)
    return Guests(tuple(dict.fromkeys(vmnames.of(listed, xend=tools.command == "xm"))))


@dataclass(frozen=True)
class Sighting:
    """What was found out about a VM. notes: sentences on what was ignored; rivals: on config files that differ."""

    name: str
    listed: bool
    config: DomainConfig | None
    notes: tuple[str, ...]
    rivals: str = ""


def look(
    name: str,
    listed: Guests,
    context: Context,
    file: Path | None = None,
    *,
    macs: Collection[str] = (),
    read: Callable[[Path], DomainConfig] = domaincfg.read,
) -> Sighting:
    """Look for the VM in the toolstack's list and in the config files, or in `file`. macs: the MACs with which the VM
    runs. Raises XenbwError when `file` cannot be read."""
    if file is not None:
        config = read(file.absolute())
        return Sighting(name, name in listed.names, config, config.problems)
    folders = context.settings.toolstack.config_dirs
    # A stock Xen makes no /etc/xen/auto; a folder that the admin configured is missed.
    stock = folders == ToolstackSection().config_dirs
    found = domainfind.find(name, folders, macs=macs, missing_ok=stock, read=read)
    notes = found.problems if found.config is None else found.config.problems
    return Sighting(name, name in listed.names, found.config, notes, found.rivals)


def check(sighting: Sighting, listed: Guests, known: Collection[str], context: Context) -> None:
    """Raise XenbwError unless a VM of this name runs or has a config file."""
    config = sighting.config
    if config is not None and config.name not in (None, sighting.name):
        raise XenbwError(f"{config.path} is the config file of {config.name!r}", "--force uses it for this VM")
    if sighting.listed or config is not None:
        return
    if sighting.rivals:
        raise XenbwError(sighting.rivals, "--config-file FILE uses one of them, --force none")
    if listed.problem is not None:
        raise XenbwError(
            f"cannot tell whether {sighting.name!r} is a VM: {listed.problem.message}",
            "; ".join(filter(None, (listed.problem.hint, "--force adds it unchecked"))),
        )
    folders = ", ".join(str(folder) for folder in context.settings.toolstack.config_dirs)
    hint = near(sighting.name, {*listed.names, *known}) or "--force adds it anyway"
    raise XenbwError(f"no VM named {sighting.name!r} is running or has a config file in {folders}", hint)


def vif_table(config: DomainConfig | None, bindings: Sequence[Binding]) -> str | None:
    """A table of the VM's vifs in its config file and of its live vifs; None if there are none."""
    rows = [
        (str(number), vif.interface or "", vif.mac or "", " ".join(map(str, vif.ips)), vif.bridge or "", "config file")
        for number, vif in enumerate(config.vifs if config else ())
    ]
    rows += [
        (str(b.devid), b.interface, b.mac or "", " ".join(map(str, b.ips)), b.bridge or "", "running") for b in bindings
    ]
    titles = ("VIF", "INTERFACE", "MAC", "IPS", "BRIDGE", "FROM")
    return render([Column(title) for title in titles], rows) if rows else None


def given_address(text: str, protect: Collection[Network]) -> Address:
    """An address that the admin gives to a VM. Raises UsageError unless it is a single address that may be blocked."""
    try:
        if "%" in text:
            raise ValueError(text)
        address = ip_address(text)
    except ValueError:
        network = "/" in text
        raise UsageError(
            f"not {'one address' if network else 'an address'}: {text!r}", "give single addresses, like 192.0.2.10"
        ) from None
    if not may_be_given(address, protect):
        raise UsageError(f"{address} cannot be a VM's address", "[enforce] protect covers it, or no host can have it")
    return address


def may_be_given(address: Address, protect: Collection[Network]) -> bool:
    """Whether an address can be a VM's."""
    nobodys = address.version == 4 and (address.is_reserved or address in _THIS_NETWORK)
    return not nobodys and not is_protected(address, protect)
