"""doctor's judgement of a tripwire."""

from __future__ import annotations

import pytest

from xenbw.doctor.finding import Level
from xenbw.doctor.tripping import Tripped, judge_tripwire

LIMIT = 3200


def test_a_tripwire_that_holds_to_the_frame_is_fine() -> None:
    assert judge_tripwire(Tripped(LIMIT - 20, LIMIT - 20, 50)).level is Level.PASS


@pytest.mark.parametrize(
    "found",
    [
        Tripped(LIMIT + 1, LIMIT + 1, 50),
        Tripped(LIMIT - 65, LIMIT - 65, 50),
        Tripped(LIMIT, LIMIT - 50, 50),
        Tripped(LIMIT, LIMIT, 49),
    ],
    ids=["more passed", "less passed", "not all counted", "not removed"],
)
def test_any_other_result_is_a_failure(found: Tripped) -> None:
    assert judge_tripwire(found).level is Level.FAIL
