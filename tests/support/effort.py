"""How many cases the long tests try: some in `make test`, all in `make full`."""

from __future__ import annotations

import os

# The only switch between the two.
THOROUGH = os.environ.get("XENBW_THOROUGH") == "1"


def cases(some: int, every: int) -> int:
    """`every` in a thorough run, else `some`: a number of examples, or the step from one place to the next."""
    return every if THOROUGH else some
