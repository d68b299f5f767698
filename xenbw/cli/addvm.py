"""xenbw addvm: give a VM its allowance, or change it."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from xenbw import checks
from xenbw.cli import host, terms
from xenbw.cli.apply import apply, throttle_problem
from xenbw.cli.command import Command, Context
from xenbw.cli.host import Guests, Sighting
from xenbw.cli.interview import ask_name, ask_terms
from xenbw.cli.names import meant, vm_name
from xenbw.cli.routes import protected
from xenbw.cli.terminal import attended, say, warn
from xenbw.cli.terms import Terms
from xenbw.clock import boot_id
from xenbw.config import Settings
from xenbw.enforce.desired import is_protected
from xenbw.errors import UsageError, XenbwError
from xenbw.ledger import vmlog
from xenbw.ledger.ledger import Ledger
from xenbw.model import VM, Action, Address, Binding, Network
from xenbw.text import decode, printable
from xenbw.xen import domaincfg
from xenbw.xen.domaincfg import DomainConfig


@dataclass(frozen=True)
class _Scene:
    """The state before anything is written: the toolstack's guests, the networks that are never blocked, and the
    ledger's VMs with their live vifs."""

    context: Context
    guests: Guests
    needed: frozenset[Network]
    vms: dict[str, VM]
    live: dict[int, list[Binding]]

    def added(self, name: str) -> bool:
        return name in self.vms and self.vms[name].added_at is not None

    def vm(self, name: str) -> VM:
        """The VM in the ledger, or one without settings."""
        return self.vms.get(name) or VM(0, name, self.context.clock.tick().wall)

    def file(self, name: str) -> Path | None:
        """The config file of an added VM, if the file is still there."""
        stored = self.vm(name).config_file if self.added(name) else None
        return Path(stored) if stored and os.path.lexists(stored) else None

    def macs(self, name: str) -> set[str]:
        """The MACs of the VM's live vifs in the ledger."""
        return {binding.mac for binding in self.bindings(name) if binding.mac}

    def bindings(self, name: str) -> Sequence[Binding]:
        return self.live.get(self.vms[name].id, ()) if name in self.vms else ()


@dataclass(frozen=True)
class _Wish:
    """A VM, and the columns of its row that must change."""

    name: str
    columns: Terms


# These options take every word after them, and so also a VM.
_GREEDY = ("ip", "mail", "allow")


def arguments(parser: ArgumentParser) -> None:
    # argparse would show the VM last, where these options take it.
    parser.usage = "%(prog)s [VM] [OPTION ...]\n       %(prog)s --all [OPTION ...]"
    parser.add_argument("name", metavar="VM", nargs="?", type=vm_name, help="the VM's name, as xl list prints it")
    terms.arguments(parser)
    parser.add_argument(
        "--ip", metavar="ADDR", nargs="+", action="extend", default=[], help="more addresses of the VM than are found"
    )
    parser.add_argument("--config-file", metavar="FILE", type=Path, help="the VM's config file, if it is not found")
    parser.add_argument("--force", action="store_true", help="add a VM that does not exist (yet)")
    parser.add_argument("--all", action="store_true", help="add every running VM that is not added yet")


def run(options: Namespace, context: Context) -> int:
    if options.all and (options.name or options.ip or options.config_file):
        raise UsageError("--all takes no VM, --ip or --config-file", "they belong to one VM")
    addresses, given = _understood(options, context)
    scene = _Scene(context, host.guests(context), *_known(context))
    wishes = _wish_for_all(given, scene) if options.all else _wish_for_one(options, addresses, given, scene)
    for wish in wishes:
        terms.check_change(scene.vm(wish.name), wish.columns, context.settings.default_allowance)
    _require_throttle(wishes, context)
    if any(wish.columns.get("mail") for wish in wishes) and not context.settings.mail.to:
        warn("note: no mail is sent, neither to the admin nor to tenants: write [mail] to into the configuration")
    if wishes:
        _write(wishes, context)
    return 0


def _understood(options: Namespace, context: Context) -> tuple[tuple[Address, ...], Terms]:
    """The addresses of --ip, and the columns of the allowance. Raises UsageError, also if nothing says which VM."""
    named = options.all or options.name
    greedy = [] if named else [f"--{name}" for name in _GREEDY if getattr(options, name)]
    hint = f"write the VM before {' and '.join(greedy)}"
    if not (named or attended()):
        raise UsageError("no VM was named", hint if greedy else "xenbw addvm VM --limit 500GB, or --all")
    try:
        return _addresses(options.ip, context.settings.enforce.protect), terms.given(options)
    except UsageError as error:
        raise UsageError(error.message, hint if greedy else error.hint) from None


def _addresses(words: Sequence[str], protect: Sequence[Network]) -> tuple[Address, ...]:
    if len(words) > checks.LONGEST_LIST:
        raise UsageError(f"--ip: {len(words):,} addresses", f"at most {checks.LONGEST_LIST}")
    return tuple(host.given_address(text, protect) for text in words)


def _require_throttle(wishes: Sequence[_Wish], context: Context) -> None:
    """Raise XenbwError if VMs are given the action throttle and this host cannot throttle."""
    throttled = [wish.name for wish in wishes if wish.columns.get("action") is Action.THROTTLE]
    if throttled and (problem := throttle_problem(context)) is not None:
        whom = throttled[0] if len(throttled) == 1 else f"{len(throttled)} VMs"
        raise XenbwError(f"{whom}: {problem}", "give another --action; nothing was changed")


def _known(context: Context) -> tuple[frozenset[Network], dict[str, VM], dict[int, list[Binding]]]:
    if not checks.is_there(context.settings.ledger.path):
        return protected(None, context), {}, {}
    with context.ledger() as ledger:
        here, live = boot_id(), dict[int, list[Binding]]()
        for binding in ledger.live_bindings().values():
            if binding.boot_id == here:
                live.setdefault(binding.vm_id, []).append(binding)
        return protected(ledger, context), {vm.name: vm for vm in ledger.vms().values()}, live


def _wish_for_all(given: Terms, scene: _Scene) -> list[_Wish]:
    if scene.guests.problem:
        raise scene.guests.problem
    _require_limit("--all", given, scene.context.settings)
    read = cache(domaincfg.read)  # a VM without a file of its own name has all files read
    names = [name for name in scene.guests.names if not scene.added(name)]
    sightings = [host.look(name, scene.guests, scene.context, macs=scene.macs(name), read=read) for name in names]
    if not sightings:
        say("every running VM is added already")
    for sighting in sightings:
        _tell(sighting, scene)
    return [_Wish(sighting.name, {**given, **_found(sighting, (), scene)}) for sighting in sightings]


def _wish_for_one(options: Namespace, addresses: tuple[Address, ...], given: Terms, scene: _Scene) -> list[_Wish]:
    def look(typed: str) -> Sighting:
        name = meant(typed, {*scene.guests.names, *scene.vms})
        sighting = _look(name, options.config_file, scene)
        if not options.force and (options.config_file or not scene.added(name)):
            host.check(sighting, scene.guests, scene.vms, scene.context)
        return sighting

    sighting = look(options.name) if options.name else ask_name(scene.guests, scene.added, look)
    name, settings = sighting.name, scene.context.settings
    added = scene.added(name)
    _tell(sighting, scene)
    if attended() and not (options.name and (added or options.limit)):
        given = ask_terms(scene.vm(name), given, settings)
    elif not added:
        _require_limit(name, given, settings)
    if addresses or options.config_file or not added:
        given = {**given, **_found(sighting, addresses, scene)}
    if not given:
        say(f"{printable(name)}: added already, and nothing was given to change")
        return []
    return [_Wish(name, given)]


def _look(name: str, file: Path | None, scene: _Scene) -> Sighting:
    """Look for the VM in --config-file; else in the config file that an added VM has, for another may name it too."""
    stored, problem = scene.file(name), ""
    if file is None and stored is not None:
        try:
            sighting = host.look(name, scene.guests, scene.context, stored)
            named = sighting.config.name if sighting.config else None
            if named is None or named == name:
                return sighting
            problem = f"{stored} is the config file of {printable(named)} now"
        except XenbwError as error:
            problem = str(error)
    sighting = host.look(name, scene.guests, scene.context, file, macs=scene.macs(name))
    return replace(sighting, notes=tuple(dict.fromkeys(filter(None, (problem, *sighting.notes)))))


def _require_limit(whom: str, given: Terms, settings: Settings) -> None:
    if "unlimited" not in given and settings.default.limit is None:
        raise UsageError(f"{whom}: no limit was given", "--limit 500GB, --limit unlimited, or [default] limit")


def _tell(sighting: Sighting, scene: _Scene) -> None:
    """Show what was found out about the VM."""
    running = "running" if sighting.listed else "not known to run" if scene.guests.problem else "not running"
    file = f"config file {sighting.config.path}" if sighting.config else "no config file found"
    say(printable(f"{sighting.name}: {running}, {file}"))
    bindings = scene.bindings(sighting.name)
    table = host.vif_table(sighting.config, bindings)
    if table:
        say(table)
    for note in sighting.notes:
        warn(f"note: {note}")


def _found(sighting: Sighting, addresses: tuple[Address, ...], scene: _Scene) -> Terms:
    """The columns for addresses and config file: the given addresses, now or before, and those in the config file."""
    config = sighting.config
    from_file = dict.fromkeys(_addresses_in(config))
    protect = scene.context.settings.enforce.protect
    usable = [address for address in from_file if host.may_be_given(address, protect)]
    for address in from_file:
        if address not in usable:
            warn(f"note: {sighting.name}: {address} in its config file cannot be a VM's address and was ignored")
    ips = tuple(dict.fromkeys((*(addresses or _kept(sighting, scene)), *usable)))
    if not ips and not any(binding.ips for binding in scene.bindings(sighting.name)):
        warn(f"note: {sighting.name}: none of its addresses is known, so a block has nothing to null-route (--ip ADDR)")
    _doubt(sighting.name, ips, scene)
    return {"ips": ips, "config_file": decode(os.fsencode(config.path))} if config else {"ips": ips}


def _kept(sighting: Sighting, scene: _Scene) -> tuple[Address, ...]:
    """The addresses that the admin gave an added VM: those of neither the config file it had nor its new one. Where the
    old file is gone, or changed in place, nobody can tell which of them came from it, and all go: another VM may have
    them by now."""
    old, config, name = scene.file(sighting.name), sighting.config, sighting.name
    had = scene.vm(name).ips if scene.added(name) else ()
    if old is None or config is None or old.samefile(config.path):
        known, verb, hint = {*_addresses_in(config)}, "dropped", "--ip ADDR gives them again"
    else:
        known, verb, hint = {*_addresses_in(config), *_addresses_in(_read(old))}, "kept", "--ip ADDR replaces them"
    others = tuple(address for address in had if address not in known)
    if others:
        shown = " ".join(map(str, others))
        warn(f"note: {name}: addresses {verb} that are not in its config file: {shown} ({hint})")
    return others if verb == "kept" else ()


def _read(path: Path) -> DomainConfig | None:
    with suppress(XenbwError):
        return domaincfg.read(path)
    return None


def _addresses_in(config: DomainConfig | None) -> Iterator[Address]:
    return (address for vif in (config.vifs if config else ()) for address in vif.ips)


def _doubt(name: str, ips: tuple[Address, ...], scene: _Scene) -> None:
    """Warn of addresses that cannot be blocked. They may be right all the same: a guest can be this host's gateway."""
    for address in ips:
        if is_protected(address, scene.needed):
            warn(f"note: {name}: this host itself needs {address}, so it is never blocked")
        for other in scene.vms.values():
            if address in other.ips and other.name != name:
                warn(f"note: {name}: {address} is also an address of {other.name}")


def _write(wishes: Sequence[_Wish], context: Context) -> None:
    """Write all wishes or none, then apply them."""
    with context.ledger(create=True) as ledger:
        with ledger.transaction():
            said = [_write_one(ledger, wish, context) for wish in wishes]
        for line in said:
            say(printable(line))
        apply(ledger, context)


def _write_one(ledger: Ledger, wish: _Wish, context: Context) -> str:
    at, default = context.moment(ledger).at, context.settings.default_allowance
    before = ledger.meet(wish.name, at)
    ledger.set_vm(before.id, **vmlog.added(ledger, before, at), **wish.columns)
    after = ledger.meet(wish.name, at)
    if before.added_at is None:
        kind, line = "added", f"{wish.name}: added, {terms.summary(before, after, default)}"
    else:
        kind, line = "changed", f"{wish.name}: {terms.difference(before, after, default) or 'nothing changed'}"
    if before != after:
        ledger.record(at, kind, line, before.id)
    return line


COMMAND = Command(arguments, run)
