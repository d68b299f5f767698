from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.clock import utc
from xenbw.ledger.outbox import Channel, Message, Queue
from xenbw.tell.gather import gather

AT = utc("2026-04-01")


def written(*seconds: float) -> list[Message]:
    """Mails that were written so many seconds after AT."""
    return [
        Message(number, AT + timedelta(seconds=second), Queue(Channel.MAIL), "subject", "body", 0)
        for number, second in enumerate(seconds, 1)
    ]


def sizes(messages: list[Message], second: float, lately: int = 0, **options: int) -> tuple[list[int], float]:
    """How many messages each mail has at that second, and for how long others wait."""
    found = gather(messages, lately, AT + timedelta(seconds=second), **options)
    return [len(parcel) for parcel in found.parcels], found.wait


@pytest.mark.parametrize("count", [1, 5])
def test_a_few_messages_go_alone_and_at_once(count: int) -> None:
    assert sizes(written(*[0] * count), 0) == ([1] * count, 0)


@pytest.mark.parametrize(("second", "wait"), [(0, 5), (4, 1)])
def test_more_messages_wait_until_no_new_one_came_for_five_seconds(second: float, wait: float) -> None:
    assert sizes(written(*[0] * 6), second) == ([], wait)


def test_then_they_go_as_one_mail() -> None:
    assert sizes(written(*[0] * 6), 5) == ([6], 0)


def test_while_new_ones_come_they_wait_for_twenty_seconds_at_most() -> None:
    assert sizes(written(*range(19)), 18.5) == ([], 1.5)
    assert sizes(written(*range(20)), 20) == ([20], 0)


def test_a_stream_of_messages_goes_together_although_few_wait_at_any_moment() -> None:
    assert sizes(written(0, 3), 3, lately=4) == ([], 5)
    assert sizes(written(0, 3), 8, lately=4) == ([2], 0)
    assert sizes(written(0), 5, lately=5) == ([1], 0)


def test_messages_that_waited_for_a_server_go_together_at_once() -> None:
    assert sizes(written(*[0] * 50), 3600) == ([50], 0)


def test_a_clock_that_was_set_back_delays_nothing() -> None:
    assert sizes(written(*[86400] * 6), 0) == ([6], 0)


def test_messages_that_were_put_together_before_stay_together_and_go_at_once() -> None:
    first, second, third = (replace(message, letter=1) for message in written(0, 0, 0))
    more = [replace(message, id=message.id + 3) for message in written(0, 0, 0)]
    fourth, fifth, sixth = more
    assert gather([first, second, third, fourth, fifth, sixth], 0, AT).parcels == [
        (first, second, third),
        (fourth,),
        (fifth,),
        (sixth,),
    ]


def test_two_are_enough_for_one_mail_if_only_one_may_go_alone() -> None:
    assert sizes(written(0), 0, few=1) == ([1], 0)
    assert sizes(written(0, 0), 5, few=1) == ([2], 0)
