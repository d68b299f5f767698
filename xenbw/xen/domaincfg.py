"""Read the name and the vifs from a domain's config file, in xl's grammar or in xm's Python style. No code in the file
is ever run."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from xenbw.errors import XenbwError
from xenbw.text import decode
from xenbw.xen import addresses, xlcfg, xmcfg
from xenbw.xen.xlcfg import ConfigSyntaxError, Value

Address = IPv4Address | IPv6Address

_MAX_BYTES = 1 << 20
_MAC_PARTS = 6
# The settings of a vif that are read; xl knows more.
_KEYS = frozenset({"mac", "ip", "bridge", "vifname", "script", "backend"})


@dataclass(frozen=True)
class VifConfig:
    """One item of `vif = [...]`. `mac` is lower case with colons, `interface` is `vifname=`; None where not given."""

    mac: str | None
    ips: tuple[Address, ...]
    bridge: str | None
    interface: str | None
    script: str | None
    backend: str | None


@dataclass(frozen=True)
class DomainConfig:
    """What a config file says. `problems` are sentences for the admin: what in the file was ignored, and why."""

    path: Path
    name: str | None
    vifs: tuple[VifConfig, ...]
    problems: tuple[str, ...] = ()


def read(path: Path) -> DomainConfig:
    """The domain config in `path`.

    Raises XenbwError, with file and line, when the file is unreadable, larger than 1 MiB, binary, half-written or no
    config file.
    """
    where = decode(os.fsencode(path))
    settings, computed = _settings(where, _content(path, where))
    name = settings.get("name")
    vifs, passed_over = _vifs(settings.get("vif", ()))
    return DomainConfig(
        path=path,
        name=name if isinstance(name, str) else None,
        vifs=vifs,
        problems=tuple(f"{where}: {problem}" for problem in (*computed, *passed_over)),
    )


def _content(path: Path, where: str) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for its writer
            raise _unusable(where, "not a regular file")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise XenbwError(f"{where}: {error.strerror}", "is it there, and are you root?") from None
    if len(data) > _MAX_BYTES:
        raise _unusable(where, "larger than 1 MiB")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise _unusable(f"{where}:{line}", "binary data")
    return data


def _settings(where: str, data: bytes) -> tuple[dict[str, Value], tuple[str, ...]]:
    """The settings, and a sentence for each setting that is needed and that only running the file would reveal."""
    try:
        settings, unknown = xlcfg.parse(data), frozenset[str]()
    except ConfigSyntaxError as xl_error:
        try:
            python = xmcfg.parse(data)
        except ConfigSyntaxError as python_error:
            # The grammar that read more lines is most likely the one in which the file was written.
            error = max(xl_error, python_error, key=lambda candidate: candidate.line)
            raise _unusable(f"{where}:{error.line}", error.reason) from None
        settings, unknown = python.known, python.unknown
    if not settings and not unknown:
        raise _unusable(f"{where}:1", "no settings in it")
    computed = sorted({"name", "vif"} & unknown)
    return settings, tuple(f"{key} is computed by Python code, which is not run" for key in computed)


def _unusable(where: str, reason: str) -> XenbwError:
    return XenbwError(f"{where}: {reason}", "not a domain config, or a damaged one; 'xl create -n FILE' tests it")


def _vifs(items: Value) -> tuple[tuple[VifConfig, ...], tuple[str, ...]]:
    if not isinstance(items, tuple):
        return (), ("vif is not a list; it was ignored",)
    vifs: list[VifConfig] = []
    problems: list[str] = []
    for number, item in enumerate(items):
        if not isinstance(item, str):  # xl stops here too: tools/xl/xl_parse.c, parse_config_data
            problems.append(f"vif {number} is not a string; this vif and those after it were ignored")
            break
        vif, wrong = _vif(item)
        vifs.append(vif)
        problems += [f"vif {number}: {what}" for what in wrong]
    return tuple(vifs), tuple(problems)


def _vif(item: str) -> tuple[VifConfig, tuple[str, ...]]:
    """The vif that `item` describes, and what is wrong with it. '' is a valid vif; the last of equal keys counts."""
    options, wrong = _options(item)
    mac = options.get("mac", "")
    ips, others = addresses.parse(options.get("ip", ""))
    wrong += [f"{word!r} in ip= {addresses.why(word)}" for word in others]
    if mac and _mac(mac) is None:
        wrong.append(f"{mac!r} is not a MAC address")
    vif = VifConfig(
        mac=_mac(mac),
        ips=tuple(map(ip_address, ips)),
        bridge=options.get("bridge") or None,
        interface=options.get("vifname") or None,
        script=options.get("script") or None,
        backend=options.get("backend") or None,
    )
    return vif, tuple(wrong)


def _options(item: str) -> tuple[dict[str, str], list[str]]:
    """The `key=value` pairs of a vif, and what is wrong with their spelling.

    xl skips blanks before a key and refuses a key with blanks after it (tools/xl/xl_parse.c, parse_nic_config); xm
    accepted blanks on both sides of `=` (tools/python/xen/xm/create.py). Neither accepts capital letters.
    """
    options: dict[str, str] = {}
    wrong: list[str] = []
    for token in item.split(","):
        written, equals, value = token.strip().partition("=")
        key = written.rstrip()
        if key in _KEYS and equals:
            options[key] = value.strip()
            if key != written:
                wrong.append(f"{written + '='!r} has a blank before its '=', which xm accepted and xl refuses")
        elif key.lower() in _KEYS:
            wrong.append(f"{token.strip()!r} is not written {key.lower()}=VALUE, so it was ignored")
    return options, wrong


def _mac(text: str) -> str | None:
    parts = re.split("[:-]", text)
    if len(parts) != _MAC_PARTS or not all(re.fullmatch("[0-9A-Fa-f]{1,2}", part) for part in parts):
        return None
    return ":".join(part.lower().zfill(2) for part in parts)
