"""vnStat 2 in the rig, a common way to meter interfaces today, at the shortest intervals that it accepts."""

from __future__ import annotations

import json
import signal

from benchmarks.rig import Rig
from xenbw.model import Counters

# vnstat.conf(5): PollInterval is 2 at least, UpdateInterval as much as that. A bandwidth of 0 is no limit; beyond one
# vnStat takes what it counted for an error.
INTERVAL = 2
_CONFIG = f"""
DatabaseDir "{{folder}}"
PollInterval {INTERVAL}
UpdateInterval {INTERVAL}
SaveInterval 1
AlwaysAddNewInterfaces 1
MaxBandwidth 0
BandwidthDetection 0
BootVariation 0
"""


class VnStat:
    """Runs vnstatd in the rig, with its own database, from its construction on."""

    def __init__(self, rig: Rig) -> None:
        self._rig, folder = rig, rig.directory / "vnstat"
        folder.mkdir()
        self._config = folder / "vnstat.conf"
        self._config.write_text(_CONFIG.format(folder=folder))
        argv = ["vnstatd", "--nodaemon", "--config", str(self._config)]
        self._daemon = rig.popen(argv, output=folder / "log")

    def stop(self) -> None:
        """End vnstatd, which then writes its counts."""
        self._daemon.send_signal(signal.SIGTERM)
        if self._daemon.wait(timeout=20) != 0:
            raise RuntimeError("vnstatd failed")

    def counted(self) -> Counters:
        """The bytes that vnStat counted on all vifs."""
        done = self._rig.run(["vnstat", "--config", str(self._config), "--json"], check=True)
        totals = [
            interface["traffic"]["total"]
            for interface in json.loads(done.stdout)["interfaces"]
            if interface["name"].startswith("vif")
        ]
        return Counters(sum(total["tx"] for total in totals), sum(total["rx"] for total in totals))
