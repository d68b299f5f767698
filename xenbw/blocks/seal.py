"""The seal: nft drops everything on a blocked VM's vif, both ways, except traffic with the VM's allowed networks.

The seal is in the chains that count, ahead of the counters: what it drops is refused, not usage (nft/nft.py). So it is
put before all other blocks of the VM and removed after them: what these drop behind no seal is counted as usage.
"""

from __future__ import annotations

from xenbw.blocks.block import Outcome, Wanted
from xenbw.errors import MeterError
from xenbw.nft.chains import Chains

UNDO = "nft delete table netdev xenbw 2>/dev/null || true"
"""Shell command that removes all seals, and the counters beside them."""


class Seal:
    """Puts the seals on vifs; none is removed yet. The nft meter uses the same chains."""

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
            present = view.present(wanted.ports)
            ports = [port._replace(sealed=True) for port in present if port.sealed or view.seals(port)]
            self._chains.keep(ports, view)
        except MeterError as error:
            return Outcome(problems=(f"the vifs of blocked VMs are not sealed: {error}",), seals=True)
        return Outcome(problems=tuple(self._chains.problems(ports)), seals=True)


class Opening:
    """Removes the seals of vifs whose VMs are not blocked any more, once the other blocks let them pass."""

    name = "opening"

    def __init__(self, chains: Chains) -> None:
        self._chains = chains

    def probe(self) -> str | None:
        """None: where there are no seals, there is nothing to open."""
        return None

    def apply(self, wanted: Wanted) -> Outcome:
        if not self._chains.usable:
            return Outcome()
        try:
            view = self._chains.look()
            ports = [port for port in view.present(wanted.ports) if not port.sealed and view.seals(port)]
            if ports:
                self._chains.keep(ports, view)
        except MeterError as error:
            return Outcome(problems=(f"the vifs of released VMs stay sealed: {error}",))
        return Outcome(problems=tuple(self._chains.problems(ports)))
