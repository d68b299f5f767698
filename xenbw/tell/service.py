"""What xenbw-notify.service runs: delivers the messages that need executables, and ends.

The daemon's sandbox has NoNewPrivileges, under which a sendmail loses the group or user by which it may queue mail, and
would bind an admin's program to what a meter may do. So neither is ever the daemon's child.
"""

from __future__ import annotations

import logging
import signal
import sys
import time

from xenbw import config
from xenbw.clock import SystemClock
from xenbw.errors import XenbwError
from xenbw.ledger.ledger import LedgerError
from xenbw.tell import carriers
from xenbw.tell.delivery import Delivery
from xenbw.tell.log import log_to

log = logging.getLogger(__name__)

# Seconds between attempts to note what was delivered.
_AGAIN = 2.0


def deliver(delivery: Delivery) -> None:
    """Deliver all that is due. What a program took but the ledger could not note (its disk is full) would be delivered
    again by the next run: this one waits until it is noted. Raises LedgerError."""
    more, waits = True, False
    while more:
        try:
            more, waits = delivery.look(), False
        except LedgerError as error:
            if not delivery.unmarked:
                raise
            if not waits:
                log.error("delivered, but not noted yet: %s", error)
            waits = True
            time.sleep(_AGAIN)
        if delivery.problem:
            log.warning("%s", delivery.problem)


def main() -> int:
    """Entry point of /usr/lib/xenbw/notify. Returns the exit status."""
    log_to(sys.stderr)
    # An exception: whatever program runs is taken down with us.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        settings = config.load()
        deliver(Delivery(settings.ledger.path, SystemClock(), carriers.by_executables(settings)))
    except XenbwError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
