"""Throttles and hard limits on the command line: they are set with addvm, shown, and lifted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from tests.support.console import Console, StandIn, Terminal
from xenbw.ledger import eventlog
from xenbw.model import Action, State
from xenbw.quota import period_at

pytestmark = pytest.mark.usefixtures("daemon")

THROTTLE = ("--limit", "500GB", "--action", "throttle", "--rate", "10Mbit")
DEFAULT = '[default]\nrate = "20Mbit"\nrate_in = "10Mbit"\nhard_limit = "2TB"\n'


def configure(console: Console, text: str) -> None:
    console.config.write_text(console.config.read_text() + text)


def said_of(console: Console, *words: str) -> str:
    """The last line of `xenbw-addvm web1 words…`."""
    return console.done("addvm", "web1", *words).splitlines()[-1]


def settings(console: Console) -> tuple[int | None, int | None, int | None]:
    vm = console.vm("web1")
    return vm.rate, vm.rate_in, vm.hard_limit_bytes


@pytest.fixture
def over(console: Console) -> None:
    """web1 has used more than its limit, and is throttled for it."""
    console.run("addvm", "web1", *THROTTLE, "--ip", "192.0.2.9", "--hard-limit", "2TB")
    console.runs("web1", ips="192.0.2.9")
    console.uses("web1", 501 * 10**9, 0)
    console.run("addvm", "web1", "--warn", "90")
    assert console.vm("web1").state is State.THROTTLED


# setting them


def test_addvm_sets_the_action_the_rates_and_the_hard_limit(console: Console) -> None:
    said = said_of(console, *THROTTLE, "--rate-in", "5 Mbit/s", "--hard-limit", "2TB", "--ip", "192.0.2.9")
    assert said == (
        "web1: added, limit 500 GB, action throttle, rate 10 Mbit/s, rate in 5 Mbit/s, hard limit 2.00 TB, "
        "ips 192.0.2.9"
    )
    assert console.vm("web1").action is Action.THROTTLE
    assert settings(console) == (10**7, 5 * 10**6, 2 * 10**12)


def test_default_and_none_take_them_back(console: Console) -> None:
    console.done("addvm", "web1", "--limit", "500GB", "--ip", "192.0.2.9")
    for words, changes in (
        ("--rate 10Mbit --rate-in 5Mbit", "rate none (default) -> 10 Mbit/s, rate in none (default) -> 5 Mbit/s"),
        ("--rate-in default", "rate in 5 Mbit/s -> as the rate"),
        ("--rate DEFAULT", "rate 10 Mbit/s -> none (default), rate in as the rate -> none (default)"),
        ("--hard-limit 1TB", "hard limit none (default) -> 1.00 TB"),
        ("--hard-limit none", "hard limit 1.00 TB -> none"),
        ("--hard-limit 2TB", "hard limit none -> 2.00 TB"),
        ("--hard-limit unlimited", "hard limit 2.00 TB -> none"),
        ("--hard-limit default", "hard limit none -> none (default)"),
    ):
        assert said_of(console, *words.split()) == f"web1: {changes}"
    assert settings(console) == (None, None, None)


def test_a_hard_limit_of_none_holds_against_that_of_the_default(console: Console) -> None:
    configure(console, DEFAULT)
    console.done("addvm", "web1", "--limit", "500GB", "--ip", "192.0.2.9")
    for words, hard in (("default", 2 * 10**12), ("none", None), ("3TB", 3 * 10**12)):
        console.done("addvm", "web1", "--hard-limit", words)
        assert json.loads(console.done("show", "web1", "--json"))["hard_limit_bytes"] == hard


def test_a_rate_of_the_vm_s_own_replaces_both_rates_of_the_default(console: Console) -> None:
    configure(console, DEFAULT)
    assert said_of(console, "--limit", "500GB", "--action", "throttle", "--ip", "192.0.2.9") == (
        "web1: added, limit 500 GB, action throttle, ips 192.0.2.9"
    )
    assert "throttle               10 Mbit/s in and 20 Mbit/s out\n" in console.done("show", "web1")
    assert said_of(console, "--rate", "50Mbit") == (
        "web1: rate 20 Mbit/s (default) -> 50 Mbit/s, rate in 10 Mbit/s (default) -> as the rate"
    )
    assert "throttle               50 Mbit/s\n" in console.done("show", "web1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--action throttle", "web1: no rate is set to throttle it to (--rate 10Mbit)"),
        ("--action throttle --rate default", "web1: no rate is set to throttle it to (--rate 10Mbit)"),
        ("--rate-in 5Mbit", "web1: --rate-in is only the rate to the VM (give the rate from it as well: --rate 10Mbit"),
        ("--hard-limit 499GB", "web1: the hard limit of 499 GB is below the limit of 500 GB (give a larger --hard-li"),
        ("--rate 0", "not a rate: '0' (write it like 10Mbit, 1.5Gbit or, in bytes, 1.25MB/s)"),
        ("--rate 0Mbit", "rate out of range: '0Mbit' (from 8kbit to 100Gbit)"),
        ("--rate 101Gbit", "rate out of range: '101Gbit' (from 8kbit to 100Gbit)"),
        ("--rate 10", "not a rate: '10' (write it like"),
        ("--rate-in 10MB", "not a rate: '10MB' (write it like"),
        ("--rate none", "not a rate: 'none' (write it like"),
        ("--hard-limit much", "not a size: 'much' (write it like"),
        ("--hard-limit 0", "size out of range: '0' (from 1B"),
    ],
)
@pytest.mark.parametrize("added", [True, False], ids=["added", "new"])
def test_settings_that_do_not_fit_together_are_refused_and_change_nothing(
    console: Console, words: str, says: str, added: bool
) -> None:
    if added:
        console.done("addvm", "web1", "--limit", "500GB", "--ip", "192.0.2.9")
        before = console.vm("web1")
    refused = console.run("addvm", "web1", "--limit", "500GB", "--ip", "192.0.2.9", *words.split())
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"xenbw: {says}")
    assert refused.stderr.count("\n") == 1
    if added:
        assert console.vm("web1") == before
    else:
        assert not console.ledger_path.exists()


CANNOT = "VMs cannot be throttled on this host: nft refuses limits in netdev chains"


@pytest.mark.parametrize("added", [True, False], ids=["added", "new"])
def test_a_throttle_on_a_host_that_cannot_throttle_is_refused_and_changes_nothing(
    console: Console, daemon: StandIn, added: bool
) -> None:
    daemon.throttle_problem = CANNOT
    words = ["--limit", "500GB", "--ip", "192.0.2.9"]
    if added:
        console.done("addvm", "web1", *words)
        before = console.vm("web1")
    refused = console.run("addvm", "web1", *words, *THROTTLE, "--hard-limit", "2TB")
    assert refused.returncode == 1
    assert refused.stderr == f"xenbw: web1: {CANNOT} (give another --action; nothing was changed)\n"
    if added:
        assert console.vm("web1") == before
    else:
        assert not console.ledger_path.exists()


def test_other_settings_of_a_throttled_vm_can_be_changed_on_a_host_that_cannot_throttle(
    console: Console, daemon: StandIn
) -> None:
    console.done("addvm", "web1", *THROTTLE, "--ip", "192.0.2.9")
    daemon.throttle_problem = CANNOT
    assert said_of(console, "--limit", "600GB") == "web1: limit 500 GB -> 600 GB"
    assert said_of(console, "--action", "block") == "web1: action throttle -> block"


def test_a_rate_that_a_throttle_needs_cannot_be_taken_away(console: Console) -> None:
    console.done("addvm", "web1", *THROTTLE, "--ip", "192.0.2.9")
    refused = console.run("addvm", "web1", "--rate", "default")
    assert (refused.returncode, refused.stderr) == (
        2,
        "xenbw: web1: no rate is set to throttle it to (--rate 10Mbit)\n",
    )
    assert settings(console) == (10**7, None, None)


def test_a_limit_above_the_hard_limit_is_refused(console: Console) -> None:
    console.done("addvm", "web1", *THROTTLE, "--hard-limit", "500GB", "--ip", "192.0.2.9")
    refused = console.run("addvm", "web1", "--limit", "501GB")
    assert refused.returncode == 2
    assert (
        "the hard limit of 500 GB is below the limit of 501 GB (give a larger --hard-limit, or none)" in refused.stderr
    )
    assert console.vm("web1").limit_bytes == 500 * 10**9


def test_a_contradiction_that_the_configuration_brought_keeps_no_other_setting_from_changing(console: Console) -> None:
    configure(console, DEFAULT)
    console.done("addvm", "web1", "--limit", "1TB", "--action", "throttle", "--ip", "192.0.2.9")
    text = console.config.read_text()
    console.config.write_text(text.replace(DEFAULT, '[default]\nhard_limit = "1GB"\n'))
    assert said_of(console, "--reset-day", "15") == "web1: reset day 1 (default) -> 15"


def test_all_running_vms_can_be_given_a_throttle_or_none_is(console: Console) -> None:
    refused = console.run("addvm", "--all", "--limit", "500GB", "--action", "throttle")
    assert refused.returncode == 2
    assert "no rate is set to throttle it to" in refused.stderr.splitlines()[-1]
    assert not console.ledger_path.exists()
    assert console.run("addvm", "--all", *THROTTLE).returncode == 0
    assert settings(console) == (10**7, None, None)


def test_on_a_terminal_the_rate_of_a_throttle_is_asked_for(console: Console) -> None:
    terminal = Terminal(console, "addvm", "web1", "--action", "throttle", "--hard-limit", "1TB")
    terminal.expect("or unlimited): ")
    terminal.type("2TB\n")
    terminal.expect("the hard limit of 1.00 TB is below the limit of 2.00 TB")
    terminal.expect("or unlimited): ")
    terminal.type("500\n")
    terminal.expect("reset day, 1 to 31 [1]: ")
    terminal.type("\n")
    terminal.expect("rate to throttle to (like 10Mbit): ")
    terminal.type("10\n")
    terminal.expect("not a rate: '10'")
    terminal.expect("rate to throttle to (like 10Mbit): ")
    terminal.type("10Mbit\n")
    terminal.expect("Add web1: limit 500 GB, reset on day 1? [Y/n]: ")
    terminal.type("\n")
    assert terminal.end()[0] == 0
    assert settings(console) == (10**7, None, 10**12)


# showing them


@pytest.mark.usefixtures("over")
def test_a_throttled_vm_is_shown_as_throttled_on_every_screen(console: Console) -> None:
    reason = "used 501 GB of 500 GB (in and out together): over its allowance by 1.00 GB; throttled to 10 Mbit/s"
    assert console.done("list").splitlines()[1].split()[:3] == ["web1", "throttled", "yes"]
    shown = console.done("show", "web1").splitlines()
    assert f"state                  throttled: {reason}" in shown
    assert shown[6:9] == [
        "counted                total; warned at 90 %; past the limit: throttle",
        "throttle               10 Mbit/s",
        "hard limit             2.00 TB; past it: block",
    ]
    assert f"state   throttled: {reason}\n" in console.done("explain", "web1")
    status = console.done("status")
    assert "VMs            1: 1 throttled\n" in status
    assert f"UTC  web1 throttled: {reason}\n" in status
    assert json.loads(console.done("status", "--json"))["states"] == {"throttled": 1}


@pytest.mark.usefixtures("over")
@pytest.mark.parametrize("words", [["list"], ["show", "web1"], ["explain", "web1"]])
def test_the_json_has_the_rates_and_the_hard_limit_as_integers(console: Console, words: list[str]) -> None:
    console.done("addvm", "web1", "--rate-in", "64kbit")
    document = json.loads(console.done(*words, "--json"))
    vm = document["vms"][0] if words == ["list"] else document
    assert vm["state"] == "throttled"
    assert [vm[key] for key in ("rate_bits", "rate_in_bits", "hard_limit_bytes")] == [10**7, 64_000, 2 * 10**12]


def test_without_a_rate_and_a_hard_limit_they_are_null_in_json_and_left_out_of_show(console: Console) -> None:
    console.done("addvm", "web1", "--limit", "500GB", "--ip", "192.0.2.9")
    vm = json.loads(console.done("show", "web1", "--json"))
    assert [vm[key] for key in ("rate_bits", "rate_in_bits", "hard_limit_bytes")] == [None] * 3
    assert not any(line.startswith(("throttle", "hard limit")) for line in console.done("show", "web1").splitlines())


@pytest.mark.usefixtures("over")
def test_a_vm_past_its_hard_limit_is_blocked_and_the_reason_says_so(console: Console) -> None:
    console.uses("web1", 1500 * 10**9, 0)
    console.done("addvm", "web1", "--warn", "91")
    reason = "used 2.00 TB of 2.00 TB (in and out together): over its hard limit by 1.00 GB"
    assert f"state                  over: {reason}\n" in console.done("show", "web1")
    with console.ledger() as ledger:
        kinds = [kind for _, kind, _ in eventlog.newest(ledger, 9)]
    assert [kind for kind in kinds if kind not in ("added", "changed")] == ["null-routed", "throttled"]


# lifting them


@pytest.mark.usefixtures("over")
def test_lift_ends_a_throttle_until_the_period_ends(console: Console) -> None:
    end = period_at(datetime.now(UTC), 1, ZoneInfo("UTC")).end
    ends = end.strftime("%Y-%m-%d 00:00 UTC")
    assert console.done("lift", "web1") == f"web1: lifted until its period ends, {ends}\n"
    assert (console.vm("web1").lifted_until, console.vm("web1").state) == (end, State.EXEMPT)
    newest = console.done("status").splitlines()[-4:]
    assert any(
        line.endswith("web1 no longer throttled: the admin lifted the throttle until the period ends")
        for line in newest
    )
