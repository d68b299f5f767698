"""Upgrade the ledger before the new daemon starts: python3 -m xenbw.ledger.upgrade, for the package.

The daemon of the version before runs on meanwhile: metering does not wait for a large copy, and goes on if the upgrade
fails, until it is repeated.
"""

from __future__ import annotations

import sys

from xenbw import config
from xenbw.errors import XenbwError
from xenbw.ledger import space
from xenbw.ledger.ledger import Ledger


def main() -> int:
    """Upgrade the ledger that the configuration names, if it exists. Returns the exit status."""
    try:
        path = config.load().ledger.path
    except XenbwError as error:
        # A mistake in the configuration must not stop the package's upgrade. The daemon reports it too.
        _tell(error)
        return 0
    try:
        if path.exists():
            ledger = Ledger.open(path)
            try:
                space.let_shrink(ledger)
            except XenbwError as error:
                _tell(error)  # the ledger works as it is
            finally:
                ledger.close()
    except XenbwError as error:
        _tell(error)
        return error.exit_code
    return 0


def _tell(error: XenbwError) -> None:
    print(f"xenbw: {error}", file=sys.stderr)  # noqa: T201 (a command)


if __name__ == "__main__":
    sys.exit(main())
