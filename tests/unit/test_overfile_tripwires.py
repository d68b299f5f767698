"""What the over file says of tripwires, and the nft texts of the hook that come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenbw.hook.call import _Facts
from xenbw.rundir import overfile

NAME = "wéb\t1"
LEFT = {"trip-in-1": 5, "trip-out-1": 0}


def test_tripwires_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = str(tmp_path / "over")
    overfile.write(path, "/ledger", [], [], {}, tripwires={NAME: LEFT, "db": {"slow-total-2": 7}})
    over = overfile.read(path)
    assert over is not None
    assert over.tripwires == {NAME: LEFT, "db": {"slow-total-2": 7}}


@pytest.mark.parametrize("damaged", ["tripwire", "tripwire\tweb1\ttrip-in-1", "tripwire\tweb1\ttrip-in-1\tx"])
def test_a_damaged_line_is_ignored_alone(tmp_path: Path, damaged: str) -> None:
    path = tmp_path / "over"
    path.write_text(f"ledger\t/ledger\n{damaged}\ntripwire\tdb\tslow-total-2\t7\n")
    over = overfile.read(str(path))
    assert over is not None
    assert over.tripwires == {"db": {"slow-total-2": 7}}


def test_the_hook_makes_quota_objects_only_if_a_vif_cannot_be_led_to_those_that_are_there() -> None:
    facts = _Facts.__new__(_Facts)
    facts.ifindex = 9
    for throttle in (None, (1, 8000, 8000)):
        attempts = facts._wired("", LEFT, throttle)
        assert ["add quota" in attempt for attempt in attempts] == [False, False, True]
        assert all("trip-in { 9 :" in attempt for attempt in attempts)
    assert "over 5 bytes" in attempts[-1]
