"""Real PV guests, Linux with busybox, with config files in /etc/xen and started with xl."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rig import console, shell, xenstore
from rig.console import NoAnswerError, Result
from rig.pace import PATIENCE, until

OUTSIDE = ("10.77.0.2", "fd77::2")
_GATEWAY = "10.77.0.1"
_ETHERNET_HEADER = 14
# Seconds without a domain of its name after which a guest has died; a restart takes less, even on a slow machine.
_GONE = 400.0


@dataclass(frozen=True)
class Usage:
    """Bytes to the guest and from it."""

    in_bytes: int
    out_bytes: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.in_bytes + other.in_bytes, self.out_bytes + other.out_bytes)

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.in_bytes - other.in_bytes, self.out_bytes - other.out_bytes)


@dataclass(frozen=True)
class Card:
    """One vif. `ips`: the addresses that the guest sets; `told`: those in its config file, the same unless given."""

    mac: str
    ips: tuple[str, ...] = ()
    told: tuple[str, ...] | None = None
    options: str = "bridge=xenbr0"

    def config(self) -> str:
        """The vif as in xl's config file."""
        told = self.ips if self.told is None else self.told
        addresses = f",ip={' '.join(told)}" if told else ""
        return f"mac={self.mac},{self.options}{addresses}"


class Guest:
    """A guest with a config file of its own. For its first 10 seconds it pings the hosts in `shout`.

    It has more than twenty methods: one for each thing that a guest does or that is done to it.
    """

    def __init__(
        self, name: str, cards: Sequence[Card], *, gateway: str = _GATEWAY, shout: Sequence[str] = OUTSIDE
    ) -> None:
        self.name, self.cards = name, list(cards)
        self.config = Path("/etc/xen") / f"{re.sub('[^A-Za-z0-9.-]', '_', name)}.cfg"
        self._write_config(gateway, shout)

    @property
    def mac(self) -> str:
        """The MAC of its first card."""
        return self.cards[0].mac

    @property
    def ip(self) -> str:
        """The first address of its first card."""
        return self.cards[0].ips[0]

    @property
    def domid(self) -> int | None:
        """Its domid; None while it does not run."""
        return xenstore.domids().get(self.name)

    def _write_config(self, gateway: str, shout: Sequence[str]) -> None:
        cards = [
            f"rig.eth{number}={','.join(ip + ('/64' if ':' in ip else '/24') for ip in card.ips)}"
            for number, card in enumerate(self.cards)
            if card.ips
        ]
        words = ["console=hvc0", "quiet", "loglevel=1", "mitigations=off", *cards, f"rig.gateway={gateway}"]
        vifs = ", ".join(f"'{card.config()}'" for card in self.cards)
        self.config.write_text(
            f'name = "{self.name}"\n'
            'type = "pv"\n'
            'kernel = "/var/lib/rig/vmlinux"\n'
            'ramdisk = "/var/lib/rig/guest.img"\n'
            f'extra = "{" ".join([*words, "rig.shout=" + ",".join(shout)])}"\n'
            "memory = 96\n"
            "vcpus = 1\n"
            f"vif = [ {vifs} ]\n"
            'on_reboot = "restart"\n'
        )

    def create(self) -> None:
        """`xl create`, and wait until the guest answers."""
        self.begin()
        self.wait()

    def begin(self) -> None:
        """`xl create` without waiting for its operating system."""
        shell.run("xl", "create", "-q", str(self.config))

    def wait(self, other_than: int | None = None) -> None:
        """Wait until the guest answers, as another domain than the given one."""

        seen = time.monotonic()

        def answers() -> bool:
            nonlocal seen
            domid = self.domid
            if domid is None:
                assert time.monotonic() < seen + _GONE, f"{self.name} is gone; domains: {xenstore.domids()}"
                return False
            seen = time.monotonic()
            if domid == other_than:
                return False
            try:
                return console.ask(domid, "true", 10).status == 0
            except NoAnswerError:
                return False

        assert until(answers), f"{self.name} does not answer; domains: {xenstore.domids()}"

    def run(self, command: str, seconds: float = PATIENCE) -> Result:
        """Run a shell command in the guest."""
        domid = self.domid
        assert domid is not None, f"{self.name} does not run"
        return console.ask(domid, command, seconds)

    def say(self, command: str) -> None:
        """Run a shell command in the guest after which it does not answer, such as `reboot -f`."""
        domid = self.domid
        assert domid is not None, f"{self.name} does not run"
        console.say(domid, command)

    def pings(self, *addresses: str) -> bool:
        """Whether each address answers the guest at least once."""
        return all(answers > 0 for answers in self._answers(addresses))

    def silent(self, *addresses: str) -> bool:
        """Whether no address answers the guest."""
        return not any(self._answers(addresses))

    def _answers(self, addresses: Sequence[str]) -> list[int]:
        """How many of 4 pings each address answers; all are pinged at once."""
        tries = " ".join(f"ping -q -c 4 -i 0.3 -W 2 {address} >>/tmp/tries 2>&1 &" for address in addresses)
        answer = self.run(f"rm -f /tmp/tries; {tries} wait; cat /tmp/tries")
        answers = [int(count) for count in re.findall(r"(\d+) packets received", answer.output)]
        assert len(answers) == len(addresses), answer
        return answers

    def download(self, megabytes: int, source: str = _GATEWAY) -> None:
        """Download so many million bytes, and wait for the end."""
        fetch = f"wget -q -O /dev/null http://{source}/1M && " * megabytes
        result = self.run(f"{fetch} true")
        assert result.status == 0, result

    def serve(self, megabytes: int) -> None:
        """Serve a file of so many million bytes to others."""
        self.run(f"dd if=/dev/zero of=/www/{megabytes}M bs=1000000 count={megabytes}")

    def upload(self, megabytes: int, target: str = _GATEWAY) -> None:
        """Send so many million bytes, and wait until they are sent."""
        result = self.run(f"dd if=/dev/zero bs=10000 count={megabytes * 100} 2>/dev/null | nc -w 5 {target} 9")
        assert result.status == 0, result

    def counters(self) -> Usage:
        """The counters of the guest's own cards since it booted: bytes to it with Ethernet headers, from it without.

        dom0 counts like that: the kernel removes the header before it counts a frame that a device received, and a vif
        receives the frames that its guest sends.
        """
        statistics = "rx_bytes rx_packets tx_bytes tx_packets"
        answer = self.run(f"for c in /sys/class/net/eth*/statistics; do cd $c; cat {statistics}; done")
        numbers = [int(number) for number in answer.output.split()]
        received, received_packets, sent, sent_packets = (sum(numbers[at::4]) for at in range(4))
        return Usage(received + _ETHERNET_HEADER * received_packets, sent - _ETHERNET_HEADER * sent_packets)

    def reboot_by_xl(self) -> None:
        """`xl reboot`; returns before the guest is up."""
        shell.run("xl", "reboot", self.name)

    def destroy(self) -> None:
        """`xl destroy`, if the guest runs."""
        if self.domid is not None:
            shell.run("xl", "destroy", self.name)
            assert until(lambda: self.domid is None), f"{self.name} is not gone"

    def shut_down(self) -> None:
        """`xl shutdown`, and wait until the guest is gone."""
        shell.run("xl", "shutdown", self.name)
        assert until(lambda: self.domid is None), f"{self.name} does not shut down"

    def start_with_dom0(self) -> None:
        """Make xendomains start the guest with dom0."""
        link = Path("/etc/xen/auto") / self.config.name
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self.config)


def create(*guests: Guest) -> None:
    """Start guests at the same time, and wait until all answer."""
    shell.together(*(["xl", "create", "-q", str(guest.config)] for guest in guests))
    for guest in guests:
        guest.wait()


def forget(*guests: Guest) -> None:
    """Destroy guests at the same time, with their config files."""
    shell.together(*(["xl", "destroy", guest.name] for guest in guests if guest.domid is not None))
    for guest in guests:
        guest.config.unlink()
