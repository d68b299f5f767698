"""Troubles of the host: each is told once when it has lasted a moment, and once when it is over. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

# Seconds for which a trouble has to last before it is told, and to be gone before its end is told.
MOMENT = 60.0
# More troubles at a time than this are not told: status shows all.
MOST = 50


class Present(NamedTuple):
    """A trouble that there is now. moment: for how many seconds it has to last before it is told."""

    text: str
    moment: float = MOMENT


class Known(NamedTuple):
    """A trouble that was seen. since, until: when it was seen first and last, in seconds of uptime. told: whether it
    was told and its end was not."""

    text: str
    since: float
    until: float
    told: bool = False


class Step(NamedTuple):
    """The troubles known now, and the keys of those that are to be told, and whose end is to be told."""

    known: dict[str, Known]
    began: tuple[str, ...] = ()
    over: tuple[str, ...] = ()


def step(known: Mapping[str, Known], present: Mapping[str, Present], elapsed: float) -> Step:
    """What follows from the troubles that there are now. elapsed: seconds of uptime."""
    found, began, over = dict[str, Known](), list[str](), list[str]()
    told = sum(one.told for one in known.values())
    for key, (text, moment) in present.items():
        before = known.get(key, Known(text, elapsed, elapsed))
        if before.told:
            # The words of its beginning stay: the present ones may have other numbers. An end that did not last a
            # moment is none.
            found[key] = before._replace(until=elapsed)
            continue
        begins = elapsed - before.since >= moment and told < MOST
        if begins:
            began.append(key)
            told += 1
        found[key] = Known(text, before.since, elapsed, begins)
    for key, one in known.items():
        if key in present or not one.told:
            continue
        if elapsed - one.until >= MOMENT:
            over.append(key)
        else:
            found[key] = one
    return Step(found, tuple(began), tuple(over))
