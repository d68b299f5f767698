"""Print the demo: its steps, the admin's commands with their output, and claims, each of which is checked."""

from __future__ import annotations

import os
import sys

from tests.support.host import Host


class Stage:
    """Prints the demo while it runs, and remembers whether a claim was false."""

    def __init__(self) -> None:
        self._steps = self._claims = self._false = 0
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def show_host(self, host: Host) -> None:
        """Print what is real in the demo and what is simulated."""
        print(
            "This is a dom0 in miniature: real bridge, interfaces, traffic, iptables and Debian's own vif-bridge, in\n"
            "network namespaces. Only Xen is simulated: guests are namespaces, xenstore is a stand-in. The demo\n"
            f"changes nothing on this machine; the ledger is {host.ledger_path}."
        )

    def step(self, title: str) -> None:
        self._steps += 1
        print(f"\n{self._paint(f'{self._steps}. {title}', '1')}")

    def say(self, text: str) -> None:
        print(f"   {text}")

    def claim(self, text: str, true: bool) -> None:
        """Print a claim that was just checked."""
        self._claims += 1
        self._false += not true
        print(f"   {self._paint('✓', '32') if true else self._paint('✗ FALSE:', '31')} {text}")

    def screen(self, host: Host, *argv: str) -> None:
        """Run a command in dom0 and print it with its output."""
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
        """Print the last line. Returns the exit status."""
        if self._false:
            print(f"\n{self._false} of {self._claims} claims were false.")
            return 1
        print(f"\nAll {self._claims} claims are true; the demo took {seconds:.0f} s.")
        return 0

    def _paint(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text
