"""`python -m benchmarks [NAME ...]`, as root: print one row for each figure."""

from __future__ import annotations

import argparse
import importlib

from benchmarks.figure import print_table

_ALL = (
    "cycle",
    "packets",
    "seal",
    "ends",
    "hook",
    "crossing",
    "throttle",
    "memory",
    "book",
    "start",
    "ledgersize",
    "pages",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="measure what xenbw costs; needs root")
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"one or more of {', '.join(_ALL)} (default: all)")
    chosen = parser.parse_args().what or _ALL
    for name in chosen:
        if name not in _ALL:
            parser.error(f"{name!r} is none of {', '.join(_ALL)}")
    for name in chosen:
        print_table(importlib.import_module(f"benchmarks.{name}").measure())


if __name__ == "__main__":
    main()
