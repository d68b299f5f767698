"""Which name of a domain is its VM's: a domain that migrates, or that the toolstack renames, has another for a time."""

from __future__ import annotations

from datetime import datetime, timedelta

from xenbw.text import AWAY, INCOMING
from xenbw.xen import identity
from xenbw.xen.xenstore import VifFacts

# How long a domain may be called as one that is being received before that is its own name. A received domain's vifs
# come when all of its memory is there, and then the two hosts have only two words to exchange (xl_migrate.c,
# migrate_receive).
_HANDOVER = timedelta(seconds=60)


class Naming:
    """Which interfaces' domains may still get another name, by ifindex."""

    def __init__(self) -> None:
        self._received: dict[int, datetime] = {}  # since when the domain has the name of one that is being received
        self._own: set[int] = set()  # that name is the VM's own

    def whose(self, ifindex: int, facts: VifFacts, bound_to: str | None, at: datetime) -> str | None:
        """The VM's name, or None while it cannot be told. bound_to: the VM that the interface is bound to."""
        called = facts.called or str(facts.name)
        if called.endswith(INCOMING):
            since = self._received.setdefault(ifindex, at)
            if facts.runs or at - since >= _HANDOVER:
                self._own.add(ifindex)
                return called
            return bound_to if bound_to in {called, facts.name} else None
        self.forget(ifindex)
        # A domain that the toolstack renames for its own purposes stays its VM's.
        if bound_to is not None and identity.former(called) == bound_to:
            return bound_to
        return called if called.endswith(AWAY) else facts.name

    def may_change(self, ifindex: int, name: str) -> bool:
        """Whether the interface's domain is perhaps being received: it gets its name when it may run. name: the VM's
        that the interface is bound to."""
        return ifindex not in self._own and (ifindex in self._received or name.endswith(INCOMING))

    def forget(self, ifindex: int) -> None:
        """The interface is gone, or its domain is not being received."""
        self._received.pop(ifindex, None)
        self._own.discard(ifindex)
