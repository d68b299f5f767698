"""`python -m benchmarks [NAME ...]`, as root: print a row for each figure, and then the targets that were missed."""

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
    missed = []
    for name in chosen:
        figures = importlib.import_module(f"benchmarks.{name}").measure()
        print_table(figures)
        missed += [figure for figure in figures if figure.missed]
    for figure in missed:
        print(f"warning: {figure.what.strip()}: {figure.value:.4g} {figure.unit}, target {figure.target}")


if __name__ == "__main__":
    main()
