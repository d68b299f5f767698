"""What is in an nft table, as netlink.py reads it."""

from __future__ import annotations

from typing import NamedTuple


class Chain(NamedTuple):
    """A chain in the kernel. device: the interface it is bound to, "" for none. rules: a hash of each rule; equal rules
    have equal hashes, except rules with an unnamed set, whose number in the rule changes."""

    device: str
    rules: tuple[int, ...] = ()


class Quota(NamedTuple):
    """A quota object. Bytes: it runs out when `consumed` reaches `limit`. The kernel goes on counting then, but tells
    no more than the limit (net/netfilter/nft_quota.c, nft_quota_do_dump)."""

    limit: int
    consumed: int

    @property
    def spent(self) -> bool:
        return self.consumed >= self.limit

    @property
    def left(self) -> int:
        """How many bytes may still pass. A limit of 1 byte stands for 0, which the kernel does not take: no frame is so
        short."""
        return 0 if self.limit == 1 else max(0, self.limit - self.consumed)
