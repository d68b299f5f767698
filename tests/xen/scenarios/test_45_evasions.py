"""Ways round the block and the meter that need only a guest's own Linux, all tried at once: in good standing, over its
allowance, and over it with only the drop rule on its vif left of the block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig import guest, outside, package, shell
from rig.ears import Ears
from rig.guest import Card, Guest
from rig.outside import Frame
from rig.pace import scaled
from rig.park import Pair

_MAC, _OTHER_MAC, _SECOND_MAC = "00:16:3e:77:00:2d", "02:16:3e:77:00:2d", "06:16:3e:77:00:2d"
_VLAN_TAG = 4

# The guest is given the MACs of the host outside and of the neighbour: a blocked guest could not learn them.
_WORDS = """
for module in /lib/more/*; do insmod $module; done
echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6
outside=10.77.0.2
know() { arp -i $1 -s $2 02:00:00:77:00:02; } # CARD ADDRESS
say() { ping -q -c 2 -i 0.3 -W 1 -p $mark "$@"; }
up() {
  echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
  ip addr add 10.77.0.45/24 dev eth0
  ip addr add fd77::45/64 dev eth0
  ip link set eth0 promisc on up
  until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do sleep 0.1; done
  know eth0 $outside
}
again() { # MAC
  ip link set eth0 down
  ip link set eth0 address $1
  up
}
"""

# Some are tried one after the other, then the rest together. Each sends its own mark.
_ON_THE_CARD = {
    "its driver unbound and bound again": """
        ip link set eth0 down
        sleep 0.3
        cd /sys/class/net/eth0/statistics && cat tx_bytes tx_packets >/tmp/earlier
        cd /sys/bus/xen/drivers/vif && echo vif-0 >unbind && echo vif-0 >bind
        until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
        up
        say $outside""",
    "another MAC": f"again {_OTHER_MAC}; say $outside; again {_MAC}",
}
_TOGETHER = {
    "another address": "ip addr add 10.77.0.145/24 dev eth0; say -I 10.77.0.145 $outside",
    "a card on its card": f"""
        ip link add link eth0 address {_SECOND_MAC} name m1 type macvlan
        ip addr add 10.74.0.1/24 dev m1; ip link set m1 up; know m1 10.74.0.2; say 10.74.0.2""",
    "a VLAN": """
        ip link add link eth0 v5 type vlan id 5
        ip addr add 10.75.0.1/24 dev v5; ip link set v5 up; know v5 10.75.0.2; say 10.75.0.2""",
    "a VLAN in a VLAN": """
        ip link add link eth0 v7 type vlan protocol 802.1ad id 7; ip link set v7 up
        ip link add link v7 v75 type vlan id 5
        ip addr add 10.76.0.1/24 dev v75; ip link set v75 up; know v75 10.76.0.2; say 10.76.0.2""",
    "IP in IP": """
        ip tunnel add t1 mode ipip remote $outside local 10.77.0.45
        ip addr add 192.0.2.1/30 dev t1; ip link set t1 up; say 192.0.2.2""",
    "GRE": """
        ip tunnel add t2 mode gre remote $outside local 10.77.0.45
        ip addr add 192.0.2.5/30 dev t2; ip link set t2 up; say 192.0.2.6""",
    "IPv6 in IPv4": """
        ip tunnel add t3 mode sit remote $outside local 10.77.0.45
        ip addr add fd66::1/64 dev t3; ip link set t3 up; say fd66::2""",
    "IPv6 by its own address": "say fd77::2",
    "IPv6 to all, by its link-local address": "say -I eth0 ff02::1",
    "IPv6 to all, by an address of nobody": "ip addr add fd99::9/128 dev eth0; sleep 1; say -I fd99::9 ff02::1%eth0",
    "multicast": "say -I eth0 224.0.0.1",
    "broadcast": "say -I eth0 10.77.0.255",
    "gratuitous ARP": "arping -q -U -c 2 -w 2 -I eth0 10.77.0.45",
    "DHCP": "udhcpc -i eth0 -n -q -t 2 -T 1 -s /bin/true",
    "a neighbour as its gateway": """
        ip route add 198.51.100.0/24 via 10.77.0.12; arp -i eth0 -s 10.77.0.12 00:16:3e:77:00:0c; say 198.51.100.2""",
}
_MARKS = {name: f"{number:02x}" for number, name in enumerate([*_ON_THE_CARD, *_TOGETHER], start=0xA0)}
_TRIES = "\n".join(
    [
        _WORDS,
        *(f"mark={_MARKS[name]}\n{act}" for name, act in _ON_THE_CARD.items()),
        *(f"(mark={_MARKS[name]}\n{act}\n) &" for name, act in _TOGETHER.items()),
        "wait",
        "touch /tmp/tried",
    ]
)


@dataclass(frozen=True)
class Tried:
    """The result of trying all evasions. frames: those that arrived outside, from the guest or forwarded by the
    neighbour. heard: how many of the guest's frames each other host got. sent, received: frames of its card since the
    driver was bound again. answered: whether it answered a ping. link: its link in dom0. dropped: whether tc drops all
    its frames there. said: its commands' output."""

    frames: list[Frame]
    heard: dict[str, int]
    sent: int
    received: int
    answered: bool
    link: str
    dropped: bool
    said: str


@dataclass(frozen=True)
class Weighed:
    """Bytes of a guest's frames, without Ethernet headers: charged by xenbw, got by others, counted by its own card in
    both lives. tagged: how many frames had a VLAN tag."""

    charged: int
    got: int
    counted: int
    tagged: int


class _Rogue:
    """The guest, which listens to all frames, and its neighbour, which forwards for all."""

    def __init__(self, guest: Guest, neighbour: Guest, ears: Ears) -> None:
        self.guest, self._neighbour, self._ears = guest, neighbour, ears

    def tries(self) -> Tried:
        """Try all evasions, while the host outside pings the guest."""
        since, before = outside.mark(), self._ears.heard()
        self.guest.run("rm -f /tmp/tried; sh /tmp/tries >/tmp/said 2>&1 &")
        answered = outside.ping(self.guest.ip, count=20)
        statistics = "/sys/class/net/eth0/statistics"
        told = self.guest.run(
            "until [ -e /tmp/tried ]; do sleep 0.2; done; "
            f"cat {statistics}/tx_packets {statistics}/rx_packets /tmp/said; ip addr"
        ).output
        sent, received, said = told.split("\n", 2)
        frames = outside.frames(since, self.guest)
        frames += [frame for frame in outside.frames(since, self._neighbour) if frame.source == self.guest.ip]
        heard = {who: frames - before[who] for who, frames in self._ears.heard().items()}
        vif = f"vif{self.guest.domid}.0"
        link = Path(f"/sys/class/net/{vif}/operstate").read_text().strip()
        dropped = "handle 0x7862" in shell.run("tc", "filter", "show", "dev", vif, "ingress")
        return Tried(frames, heard, int(sent), int(received), answered, link, dropped, said)

    def weighed(self) -> Weighed:
        """The bytes once all counters agree, or else at the end of the wait. IPv6 and its reports are switched off."""
        self.guest.run("echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
        deadline = time.monotonic() + scaled(3)
        while True:
            tags = self.guest.run("cd /sys/class/net; cat v5/statistics/tx_packets v7/statistics/tx_packets")
            tagged = sum(int(number) for number in tags.output.split())
            counted = self.guest.counters().out_bytes + self._counted_earlier()
            got = self._ears.weight()
            found = Weighed(package.usage(self.guest.name).out_bytes, got, counted, tagged)
            if found.charged == found.got == found.counted - _VLAN_TAG * tagged or time.monotonic() > deadline:
                return found

    def _counted_earlier(self) -> int:
        """The bytes that its card counted before the driver was unbound."""
        sent, frames = (int(number) for number in self.guest.run("cat /tmp/earlier").output.split())
        return sent - 14 * frames


@dataclass(frozen=True)
class Story:
    """All tries: in good standing, with the bytes charged; over the allowance; over it with only the drop rule left."""

    good: Tried
    weighed: Weighed
    over: Tried
    rule_alone: Tried


@pytest.fixture(scope="module", autouse=True)
def story(pair: Pair) -> Iterator[Story]:
    """One guest tries all evasions three times."""
    each = Guest("rogue", [Card(_MAC, ("10.77.0.45", "fd77::45"))], shout=())
    pair.db.run("echo 1 >/proc/sys/net/ipv4/ip_forward; ip route add 198.51.100.0/24 via 10.77.0.2")
    with Ears((_MAC, _OTHER_MAC, _SECOND_MAC), (pair.web, pair.db)) as ears:
        each.create()
        each.cards += [Card(_OTHER_MAC), Card(_SECOND_MAC)]
        each.run(f"cat >/tmp/tries <<'END'\n{_TRIES}\nEND")
        rogue = _Rogue(each, pair.db, ears)
        good, weighed = rogue.tries(), rogue.weighed()
        package.send_over(each.name)
        over = rogue.tries()
        with package.daemon_asleep():
            package.raise_links()
            package.flush()
            rule_alone = rogue.tries()
        yield Story(good, weighed, over, rule_alone)
    guest.forget(each)
    # The next VM of this name starts clean.
    package.xenbw("rmvm", each.name, "--yes")
    pair.db.run("echo 0 >/proc/sys/net/ipv4/ip_forward; ip route del 198.51.100.0/24")


def _shows(frame: Frame, name: str) -> bool:
    """Whether a frame comes from the evasion of that name."""
    kind, arp, ports = frame.head[12:14], frame.head[28:32], frame.head[34:38]
    if name == "gratuitous ARP":
        return kind == b"\x08\x06" and arp == frame.head[38:42]
    if name == "DHCP":
        return kind == b"\x08\x00" and ports == bytes([0, 68, 0, 67])
    return bytes.fromhex(_MARKS[name]) * 16 in frame.head


@pytest.mark.parametrize("name", _MARKS)
def test_in_good_standing_each_evasions_frames_arrive_outside(name: str, story: Story) -> None:
    assert any(_shows(frame, name) for frame in story.good.frames), story.good.said


def test_in_good_standing_a_guest_is_charged_for_each_byte_that_others_got(story: Story) -> None:
    # Also for frames with VLAN tags: at both ends the kernel removes the outer tag before it counts.
    assert story.weighed.charged == story.weighed.got


def test_of_the_bytes_of_its_own_card_only_vlan_tags_are_not_charged(story: Story) -> None:
    # The outer tag of each frame, 4 bytes, is not charged; a second tag is. See docs/metering.md.
    assert story.weighed.tagged > 4
    assert story.weighed.counted - story.weighed.charged == _VLAN_TAG * story.weighed.tagged


@pytest.fixture(params=["as the block stands", "by the drop rule alone"])
def blocked(request: pytest.FixtureRequest, story: Story) -> Tried:
    """Over its allowance: all blocks stand; or those by tc and by null routes are gone, with the daemon stopped."""
    by_rule = request.param == "by the drop rule alone"
    tried = story.rule_alone if by_rule else story.over
    assert (tried.link, tried.dropped) == ("up", not by_rule)
    return tried


def test_over_its_allowance_no_frame_of_a_guest_reaches_the_host_outside(blocked: Tried) -> None:
    assert blocked.frames == []
    # The guest did send.
    assert blocked.sent > 40


def test_over_its_allowance_no_host_gets_a_frame_of_a_guest(blocked: Tried) -> None:
    assert blocked.heard == {"outside": 0, "dom0": 0, "web1": 0, "db1": 0}


def test_over_its_allowance_a_guest_that_listens_to_all_frames_hears_none(blocked: Tried, story: Story) -> None:
    assert (blocked.received, blocked.answered) == (0, False)
    assert (story.good.received > 0, story.good.answered) == (True, True)
