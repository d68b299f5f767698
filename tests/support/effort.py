"""How much the long tests try: a share of their cases in `make test`, all of them in `make full`."""

from __future__ import annotations

import os

# The one switch.
THOROUGH = os.environ.get("XENBW_THOROUGH") == "1"


def cases(some: int, every: int) -> int:
    """`every` in a thorough run, else `some`: for a number of examples, or for the stride through all places."""
    return every if THOROUGH else some
