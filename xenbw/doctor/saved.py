"""Check for saved firewall files that contain xenbw's chains, whose content was right only when they were saved."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from xenbw.blocks import null_text
from xenbw.blocks.restore import CHAIN
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.host import Host
from xenbw.nft import nft

_TOPIC = "saved rules"
_PLACES = (
    "etc/iptables/*",
    "etc/iptables.*",
    "etc/sysconfig/iptables",
    "etc/sysconfig/ip6tables",
    "etc/sysconfig/nftables.conf",
    "etc/network/iptables*",
    "etc/ufw/*.rules",
    "etc/firewalld/direct.xml",
    "etc/nftables.conf",
    "etc/nftables.d/*",
    "etc/nftables/*.nft",
)
_CHAIN = re.compile(rf"(?<![\w-]){CHAIN}(?![\w-])")
_TABLE = re.compile(rf"\bnetdev\s+{nft.TABLE}\b")
_LATCH = re.compile(rf"\b(?:bridge|inet|arp)\s+{nft.TABLE}(?![\w-])")
_NULL = re.compile(rf"\b(?:bridge|inet)\s+{null_text.TABLE}(?![\w-])")
_FOR_NFT = "/nftables"
_LARGEST = 16 << 20


class Kind(Enum):
    """Which part of xenbw's rules a file contains."""

    NFT = "the nft table of xenbw's counters"
    LATCH = "an nft table of xenbw's latches"
    NULL = "an nft table of xenbw's null routes"
    CHAIN = "the chain of xenbw's null routes"


@dataclass(frozen=True)
class Saved:
    path: Path
    kind: Kind


def look(_host: Host) -> Iterator[Finding]:
    command = shutil.which("iptables-restore")
    # Debian's alternatives link it to one of two programs (iptables(8), xtables-nft(8)).
    to_nft = command is None or "legacy" not in Path(command).resolve().name
    yield from judge(search(Path("/")), to_nft=to_nft)


def search(root: Path) -> list[Saved]:
    """The files that contain rules of xenbw. Files that cannot be read are skipped."""
    found = []
    for place in _PLACES:
        for path in sorted(root.glob(place)):
            text = _rules(path)
            if _TABLE.search(text):
                found.append(Saved(path, Kind.NFT))
            elif _LATCH.search(text):
                found.append(Saved(path, Kind.LATCH))
            elif _NULL.search(text):
                found.append(Saved(path, Kind.NULL))
            elif _CHAIN.search(text):
                found.append(Saved(path, Kind.CHAIN))
    return found


def _rules(path: Path) -> str:
    """The file without its comments."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_LARGEST)
    except OSError:
        return ""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def judge(saved: Iterable[Saved], *, to_nft: bool) -> list[Finding]:
    """to_nft: whether iptables-restore writes into nft's tables and not into the legacy ones."""
    found = []
    for one in saved:
        fix = f"delete every line that names it from {one.path}"
        text = f"{one.path} names {one.kind.value}"
        if one.kind is Kind.NFT:
            why = "nft refuses the whole file at boot, because those interfaces do not exist yet: no firewall is left"
            found.append(bad(_TOPIC, f"{text}: {why}", fix))
        elif one.kind is Kind.CHAIN and (to_nft or _FOR_NFT in one.path.as_posix()):
            why = "if restored, its blocks get into nft's tables, where no lift removes them"
            found.append(bad(_TOPIC, f"{text}: {why}", fix))
        else:
            why = "if restored, it blocks the VMs that were blocked when it was saved, until xenbwd corrects that"
            found.append(doubt(_TOPIC, f"{text}: {why}", fix))
    return found or [good(_TOPIC, "no saved firewall names xenbw's chains")]
