"""A vif, as our chains know it."""

from __future__ import annotations

from typing import NamedTuple

from xenbw.nft import nft


class Port(NamedTuple):
    """One life of a vif. interface: the vif's present name. mac: the MAC that Xen gave it.

    allow: addresses and networks that its seal, if it has one, lets through. throttle: its VM's id, and the bits per
    second to the guest and from it, if the VM is throttled past its allowance. vm_id: None while its VM is not known.
    aliased: for how many seconds others may still send to another MAC of the VM.
    """

    domid: int
    devid: int
    ifindex: int
    interface: str
    mac: str | None = None
    sealed: bool = False
    allow: tuple[str, ...] = ()
    throttle: tuple[int, int, int] | None = None
    vm_id: int | None = None
    aliased: int = 0

    @property
    def held(self) -> bool:
        """Whether it needs chains whatever counts its traffic: for a seal or a throttle."""
        return self.sealed or self.throttle is not None

    @property
    def key(self) -> str:
        return nft.key(self.domid, self.devid, self.ifindex)
