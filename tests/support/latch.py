"""A latched guest, the vifs attached to it, and the latch in dom0's nft."""

from __future__ import annotations

from tests.support import story
from tests.support.guest import Card, Guest
from tests.support.host import REPO, Host
from tests.support.intruder import Intruder
from tests.support.pace import until
from xenbw.blocks import latch_text
from xenbw.blocks.latch import domids
from xenbw.nft.netlink import Table
from xenbw.nft.nft import TABLE
from xenbw.nft.pipe import hand_to_nft

KINDS = {0x0800: "IPv4", 0x0806: "ARP", 0x86DD: "IPv6", 0x8100: "VLAN", 0x88B5: "of an experiment"}


def overdrawn(host: Host, **start: object) -> Guest:
    """A running VM that is blocked, and latched."""
    guest = story.overdrawn(host, **start)
    assert until(lambda: guest.domid in latched(host).get("arp", ()))
    return guest


def attach(host: Host, guest: Guest, name: str | None = None) -> Card:
    """A vif that its vif script has made a bridge port, renamed if a name is given, and that the guest already uses,
    before the script calls the hook."""
    card = guest.attach("10.50.0.77")
    if name is not None:
        classify(host, guest, card)
        guest.rename_vif(name, card.devid)
    interface = guest.interfaces[card.devid]
    host.namespace.ip(f"link set {interface} master xenbr0 up")
    assert until(lambda: host.run(["cat", f"/sys/class/net/{interface}/brport/state"]).stdout == "3\n")
    return card


def classify(host: Host, guest: Guest, card: Card) -> None:
    """Set the vif's group, as udev does by our rule; no udev runs in a miniature dom0."""
    marks, node = str(host.run_dir / "latched"), f"vif-{guest.domid}-{card.devid}"
    answer = host.run([str(REPO / "hooks" / "vif-group"), marks, node])
    if answer.returncode == 0:
        host.namespace.ip(f"link set {guest.interfaces[card.devid]} group {answer.stdout.strip()}")


def talk(me: Intruder, card: Card) -> None:
    """The guest sends all kinds of frames through that card, to each other host and to all."""
    everybody = [("everybody", kind) for kind in KINDS]
    me.send(
        [me.frame(me.mark + bytes(60), kind, to=to, sender=card.mac) for to, kind in [("outside", 0x0800), *everybody]],
        f"eth{card.devid}",
    )


def latched(host: Host) -> dict[str, set[int]]:
    """The latched domains by family, for families with the latch's chain. A domain that is latched only by its name or
    only by its group is -2."""
    found = {}
    with host.namespace.entered():
        for family, number in latch_text.FAMILIES.items():
            table = Table(TABLE, number)
            if latch_text.CHAINS[family] in table.chains():
                names, groups = domids(table.elements(latch_text.SET)), domids(table.elements(latch_text.GROUPS))
                found[family] = set(names) if names == groups else {-2, *(names & groups)}
            table.close()
    return found


def everywhere(*domids: int) -> dict[str, set[int]]:
    return {family: set(domids) for family in latch_text.FAMILIES}


def hand_in_dom0(host: Host, text: str) -> bool:
    """Hand dom0's nft a batch; whether nft accepted it."""
    with host.namespace.entered():
        return hand_to_nft(text) is None
