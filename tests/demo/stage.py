"""The demo's output: steps, the admin's commands and their output, and claims, each checked."""

from __future__ import annotations

import os
import sys

from tests.support.host import Host


class Stage:
    """Prints each step; remembers whether a claim was false."""

    def __init__(self) -> None:
        self._steps = self._claims = self._false = 0
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def show_host(self, host: Host) -> None:
        """Tell which parts of the demo are real."""
        print(
            "A dom0 in miniature: real bridge, interfaces, traffic, iptables and Debian's own vif-bridge, in network\n"
            "namespaces. Only the hypervisor is played: guests are namespaces, xenstore a stand-in. Nothing on this\n"
            f"machine is touched; the ledger is {host.ledger_path}."
        )

    def step(self, title: str) -> None:
        self._steps += 1
        print(f"\n{self._paint(f'{self._steps}. {title}', '1')}")

    def say(self, text: str) -> None:
        print(f"   {text}")

    def claim(self, text: str, true: bool) -> None:
        """Print a claim and the result of its check."""
        self._claims += 1
        self._false += not true
        print(f"   {self._paint('✓', '32') if true else self._paint('✗ NOT SO:', '31')} {text}")

    def screen(self, host: Host, *argv: str) -> None:
        """Type a command in dom0 and show what it prints."""
        print(f"   {self._paint(f'dom0# {chr(32).join(argv)}', '36')}")
        if argv[0] == "xenbw-addvm":
            done = host.xenbw("addvm", *argv[1:])
        elif argv[0] == "xenbw":
            done = host.xenbw(*argv[1:])
        else:
            done = host.run(argv, check=True)
        for line in done.stdout.splitlines():
            print(f"   {line}".rstrip())

    def close(self, seconds: float) -> int:
        """Print the closing line; returns the exit status."""
        if self._false:
            print(f"\n{self._false} of {self._claims} claims were false.")
            return 1
        print(f"\nAll {self._claims} claims held; {seconds:.0f} s.")
        return 0

    def _paint(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text
