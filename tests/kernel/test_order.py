"""Other programs change the host's rules again and again while VMs over their allowance keep sending: the block is
repaired in time, traffic passes only until then, and other programs' rules stay as they are."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.support.contest import Contest
from tests.support.firewalls import BY_HAND, COMMANDS, IPTABLES, MISLED, NFT
from tests.support.host import Host
from tests.support.pace import busy, until, within

pytestmark = [pytest.mark.kernel, pytest.mark.alone]

SEEDS = range(5)  # each with all acts in another order: 140 in all
# Seconds in which the daemon has to repair its rules: in nft, whose changes the kernel reports, and in iptables, which
# the daemon checks in the first round of the meter after each [enforce] interval.
NFT_SECONDS, ROUND, INTERVAL = 0.1, 0.2, 1.0
LENIENCE = busy(0.4)  # seconds more on a busy machine
CONFIG = f"[meter]\ninterval = {ROUND}\n[enforce]\ninterval = {INTERVAL}\n"
# After one change of iptables in so many the daemon's timer is awaited; after the others the daemon is told at once.
BY_TIME_ALONE = 6


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host(CONFIG) as machine:
        yield machine


@pytest.fixture(scope="module")
def contest(host: Host) -> Iterator[Contest]:
    with Contest(host) as contest:
        yield contest


def shuffled(acts: dict[str, str], dice: random.Random) -> list[str]:
    return dice.sample(sorted(acts), len(acts))


@pytest.mark.parametrize("seed", SEEDS)
def test_after_each_change_of_nft_the_seal_is_repaired_in_time(contest: Contest, seed: int) -> None:
    dice = random.Random(seed)
    for name in shuffled(NFT, dice):
        theirs = contest.act(NFT[name], "iptables-nft")
        acted = time.time()
        assert within(contest.sealed, NFT_SECONDS + LENIENCE), name
        late = [at - acted for at in contest.by_seal() if at > acted + NFT_SECONDS + LENIENCE]
        assert (late, contest.by_null_route()) == ([], []), name
        assert contest.theirs() == theirs, name


@pytest.mark.parametrize("seed", SEEDS)
def test_after_each_change_of_iptables_the_null_routes_are_repaired_in_time(
    host: Host, contest: Contest, seed: int
) -> None:
    dice = random.Random(seed)
    for at, name in enumerate(shuffled(IPTABLES, dice)):
        theirs = contest.act(IPTABLES[name], dice.choice(COMMANDS))
        if at % BY_TIME_ALONE:
            host.ask("sync")
        assert within(contest.routed, INTERVAL + ROUND + LENIENCE), name
        restored = time.time()
        assert contest.by_seal() == [], name
        assert contest.theirs() == theirs, name
        assert [when for when in contest.by_null_route() if when > restored] == [], name


@pytest.mark.parametrize("name", BY_HAND)
def test_a_change_by_hand_in_our_table_is_repaired(contest: Contest, name: str) -> None:
    contest.act(BY_HAND[name], "iptables-nft")
    acted = time.time()
    assert within(contest.sealed, NFT_SECONDS + LENIENCE)
    assert [at - acted for at in contest.by_seal() if at > acted + NFT_SECONDS + LENIENCE] == []


@pytest.mark.parametrize("name", MISLED)
def test_misdirected_counting_is_repaired_and_the_seal_holds_meanwhile(contest: Contest, name: str) -> None:
    contest.by_seal()
    contest.act(MISLED[name], "iptables-nft")
    assert within(contest.sealed, NFT_SECONDS + LENIENCE)
    assert contest.by_seal() == []


def test_without_a_block_all_of_the_traffic_passes(host: Host, contest: Contest) -> None:
    for name in contest.blocked:
        host.xenbw("lift", name)
    contest.by_null_route()
    passes = until(lambda: contest.by_seal() != []), until(lambda: contest.by_null_route() != [])
    for name in contest.blocked:
        host.xenbw("block", name)
    assert passes == (True, True)
