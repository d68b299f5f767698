"""Rounds of the daemon's work, run inside a rig by benchmarks.book: `without` a book, or with a `dead` book."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

from xenbw.book.sync import Sync
from xenbw.clock import SystemClock, Timedated, boot_id
from xenbw.config import LedgerSection, MongodbSection, Settings
from xenbw.daemon.cycle import Work
from xenbw.ledger.ledger import Ledger
from xenbw.nft.netlink import RuleWatch
from xenbw.runner import run
from xenbw.xen.xenstore import Lookup

_DEAD = "mongodb://127.0.0.1:1/"
_ROUNDS = 200


def main(how: str) -> None:
    """Print the wall time of rounds, in seconds, as JSON; with `dead` a thread also tries to reach a dead book."""
    settings = replace(Settings(), ledger=LedgerSection(commit=0.0), mongodb=MongodbSection(uri=_DEAD))
    ledger, lookup = Ledger.open(settings.ledger.path), Lookup()
    work = Work(settings, ledger, lookup, SystemClock(), Timedated(run).vouches, boot_id(), run, RuleWatch().apply)
    work.start()
    sync = Sync(settings, SystemClock())
    if how == "dead":
        sync.start()
    work.cycle(())
    samples = []
    for _ in range(_ROUNDS):
        time.sleep(0.02)
        begin = time.monotonic()
        work.cycle(())
        samples.append(time.monotonic() - begin)
    lookup.close()
    work.close()
    print(json.dumps(samples), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
