"""The program of xenbw-notify.service: it delivers the messages that need a program or go to a web server, and ends.

The daemon does not run these programs itself, because of its sandbox: with NoNewPrivileges a sendmail loses the group
or user by which it may queue mail, and an admin's program could do no more than a meter may.
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

# Seconds between attempts to mark delivered messages in the ledger.
_AGAIN = 2.0
# Seconds between looks for other messages while mails wait for more of them.
_LOOK = 1.0


def deliver(delivery: Delivery) -> None:
    """Deliver all due messages. If the ledger cannot mark a delivered message (its disk is full), the next run would
    deliver it again; so this run waits until it is marked. Raises LedgerError."""
    more, waits = True, False
    while more or delivery.wait:
        if not more:
            time.sleep(min(delivery.wait, _LOOK))
        try:
            more, waits = delivery.look(), False
        except LedgerError as error:
            if not delivery.unmarked:
                raise
            if not waits:
                log.error("delivered, but not yet marked in the ledger: %s", error)
            waits = True
            time.sleep(_AGAIN)
        if delivery.problem:
            log.warning("%s", delivery.problem)


def main() -> int:
    """Entry point of /usr/lib/xenbw/notify. Returns the exit status."""
    log_to(sys.stderr, "xenbw-notify")
    # Exit by an exception, so that a running program is killed too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        settings = config.load()
        routes = carriers.by_service(settings)
        if routes.tenant is not None:
            for problem in routes.templates.problems:
                log.warning("%s", problem)
        deliver(Delivery(settings.ledger.path, SystemClock(), routes))
    except XenbwError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
