from __future__ import annotations

import pytest

from xenbw.text import base_name, decode


def test_names_in_utf8_stay_unchanged() -> None:
    assert decode("kundé-42".encode()) == "kundé-42"


def test_bytes_that_are_not_utf8_are_shown_not_lost() -> None:
    assert decode(b"web\xff1") == r"web\xff1"


@pytest.mark.parametrize("name", ["web1--incoming", "web1--migratedaway"])
def test_a_migrating_domain_has_its_vms_name(name: str) -> None:
    assert base_name(name) == "web1"


def test_only_one_suffix_is_removed() -> None:
    assert base_name("web1--incoming--migratedaway") == "web1--incoming"


@pytest.mark.parametrize("name", ["web1", "--incoming-web1", "web1--incoming2", "web1-incoming"])
def test_other_names_stay_whole(name: str) -> None:
    assert base_name(name) == name
