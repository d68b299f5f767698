"""Facts about this host that several topics need, looked up once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

from xenbw.blocks import method
from xenbw.clock import Clock
from xenbw.config import Settings
from xenbw.errors import XenbwError
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.tables import Tables
from xenbw.rundir import control
from xenbw.rundir.control import Answer
from xenbw.runner import Runner
from xenbw.vifs import interfaces
from xenbw.vifs.interfaces import Vif
from xenbw.xen.xenstore import VifFacts, XenStore


@dataclass(frozen=True)
class Host:
    """This host: its settings, and the ways to run programs and read the clock."""

    settings: Settings
    run: Runner
    clock: Clock

    @cached_property
    def daemon(self) -> Answer:
        """The daemon's status as it reports it. Raises XenbwError if the daemon does not answer."""
        return control.ask(self.settings.daemon.run_dir, "status")

    @property
    def status(self) -> Answer:
        """The daemon's status, empty if the daemon does not answer."""
        try:
            return self.daemon
        except XenbwError:
            return {}

    @cached_property
    def method(self) -> str:
        """By what addresses are null-routed: as the daemon does it, or as it would."""
        told = self.status.get("null_route_method")
        if told is not None:
            return str(told)
        with closing(Tables(hand_to_nft)) as tables:
            return method.choose(self.settings.enforce.null_routes, tables, self.run)[0]

    @cached_property
    def vifs(self) -> tuple[Vif, ...]:
        """The guests' interfaces."""
        found = (interfaces.identify(name) for name in sorted(os.listdir(interfaces.SYSFS)))
        return tuple(vif for vif in found if vif is not None)

    @cached_property
    def backends(self) -> Mapping[str, VifFacts]:
        """What xenstore has about the guests' interfaces, by interface. Raises StoreError."""
        with XenStore() as store:
            found = {vif.interface: store.vif(vif.domid, vif.devid) for vif in self.vifs}
        return {interface: facts for interface, facts in found.items() if facts is not None}
