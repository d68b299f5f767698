"""Bringing the ledger up to date before the new daemon starts: python3 -m xenbw.ledger.upgrade, for the package.

The daemon of the version before goes on meanwhile, so however large the copy is, metering does not wait for it; and
where it fails, that daemon keeps metering and blocking until the upgrade is repeated.
"""

from __future__ import annotations

import sys

from xenbw import config
from xenbw.errors import XenbwError
from xenbw.ledger.ledger import Ledger


def main() -> int:
    """Upgrade the ledger that the configuration names, where there is one. Returns the exit status."""
    try:
        path = config.load().ledger.path
    except XenbwError as error:
        # A mistake in the configuration is no reason to stop the upgrade: the daemon says it too, and tries again.
        _tell(error)
        return 0
    try:
        if path.exists():
            Ledger.open(path).close()
    except XenbwError as error:
        _tell(error)
        return error.exit_code
    return 0


def _tell(error: XenbwError) -> None:
    print(f"xenbw: {error}", file=sys.stderr)  # noqa: T201 (a command)


if __name__ == "__main__":
    sys.exit(main())
