"""The seal: nft drops everything on a blocked VM's vif, both ways, except traffic with the VM's allowed networks.

The seal is in the chains that count, ahead of the counters: what it drops is refused, not usage (nft/nft.py).
"""

from __future__ import annotations

from xenbw.blocks.block import Outcome, Wanted
from xenbw.errors import MeterError
from xenbw.nft.chains import Chains

UNDO = "nft delete table netdev xenbw 2>/dev/null || true"
"""Shell command that removes all seals, and the counters beside them."""


class Seal:
    """The seals on all vifs. The nft meter uses the same chains."""

    name = "seal"

    def __init__(self, chains: Chains) -> None:
        self._chains = chains

    def probe(self) -> str | None:
        return self._chains.probe()

    def apply(self, wanted: Wanted) -> Outcome:
        if not self._chains.usable:
            return Outcome()
        try:
            view = self._chains.look()
            ports = [port for port in view.present(wanted.ports) if port.sealed or view.seals(port)]
            self._chains.keep(ports, view)
        except MeterError as error:
            return Outcome(problems=(f"the vifs of blocked VMs are not sealed: {error}",), seals=True)
        return Outcome(problems=tuple(self._chains.problems(ports)), seals=True)
