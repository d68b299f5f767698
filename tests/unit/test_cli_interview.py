"""addvm on a terminal asks what was not given, as its forerunner of 2014 did."""

from __future__ import annotations

import pytest

from tests.support.console import Console, Terminal

pytestmark = pytest.mark.usefixtures("daemon")

LIMIT = "bandwidth limit in GB (or like 1.5TB, or unlimited): "


def test_asks_for_name_limit_and_reset_day_and_adds_the_vm(console: Console) -> None:
    terminal = Terminal(console, "addvm")
    terminal.expect("VMs not added yet: web1, customer-42.example.org_web+db, ren, sp ace:col\nVM name: ")
    terminal.type("sp ace:col\n")
    terminal.expect("sp ace:col: running, no config file found\n")
    terminal.expect(LIMIT)
    terminal.type("500\n")
    terminal.expect("reset day, 1 to 31 [1]: ")
    terminal.type("15\n")
    terminal.expect("Add sp ace:col: limit 500 GB, reset on day 15? [Y/n]: ")
    terminal.type("y\n")
    terminal.expect("sp ace:col: added, limit 500 GB, reset day 15\n")
    assert terminal.end()[0] == 0
    vm = console.vm("sp ace:col")
    assert (vm.limit_bytes, vm.reset_day) == (500 * 10**9, 15)


def test_after_a_wrong_answer_the_question_is_asked_again(console: Console) -> None:
    terminal = Terminal(console, "addvm")
    terminal.expect("VM name: ")
    terminal.type("wbe1\n")
    terminal.expect("(did you mean web1?)\nVM name: ")
    terminal.type("\n")
    terminal.expect("the name of a VM is empty")
    terminal.expect("VM name: ")
    terminal.type("web1\n")
    terminal.expect(LIMIT)
    terminal.type("10 bananas\n")
    terminal.expect("not a size: '10 bananas'")
    terminal.expect(LIMIT)
    terminal.type("\n")
    terminal.expect("not a size: ''")
    terminal.expect(LIMIT)
    terminal.type("unlimited\n")
    terminal.expect("reset day, 1 to 31 [1]: ")
    terminal.type("32\n")
    terminal.expect("not a reset day: '32'")
    terminal.expect("reset day, 1 to 31 [1]: ")
    terminal.type("\n")
    terminal.expect("Add web1: limit unlimited, reset on day 1? [Y/n]: ")
    terminal.type("perhaps\n")
    terminal.expect("answer y or n\n")
    terminal.expect("[Y/n]: ")
    terminal.type("\n")
    assert terminal.end()[0] == 0
    assert (console.vm("web1").unlimited, console.vm("web1").reset_day) == (True, None)


@pytest.mark.parametrize(("keys", "status"), [("\x04", 1), ("\x03", 130)], ids=["Ctrl-D", "Ctrl-C"])
@pytest.mark.parametrize("answers", [0, 1, 2, 3])
def test_ending_the_input_at_any_question_writes_nothing(
    console: Console, keys: str, status: int, answers: int
) -> None:
    terminal = Terminal(console, "addvm")
    for question, answer in [("VM name: ", "web1\n"), (LIMIT, "5\n"), ("[1]: ", "\n")][:answers]:
        terminal.expect(question)
        terminal.type(answer)
    terminal.expect(("VM name: ", LIMIT, "[1]: ", "[Y/n]: ")[answers])
    terminal.type(keys)
    ended, shown = terminal.end()
    assert ended == status
    assert "Traceback" not in shown
    assert not console.ledger_path.exists()


def test_a_no_at_the_end_writes_nothing(console: Console) -> None:
    terminal = Terminal(console, "addvm", "web1", "--reset-day", "3")
    terminal.expect(LIMIT)
    terminal.type("5\n")
    terminal.expect("Add web1: limit 5.00 GB, reset on day 3? [Y/n]: ")
    terminal.type("n\n")
    status, shown = terminal.end()
    assert (status, shown) == (1, "n\nxenbw: stopped: nothing was written\n")
    assert not console.ledger_path.exists()


def test_enter_takes_the_default_limit_by_following_it(console: Console) -> None:
    console.config.write_text(console.config.read_text() + '[default]\nlimit = "300GB"\n')
    terminal = Terminal(console, "addvm", "web1")
    terminal.expect("or unlimited) [300 GB]: ")
    terminal.type("\n\n\n")
    assert terminal.end()[0] == 0
    assert (console.vm("web1").limit_bytes, console.vm("web1").added_at is not None) == (None, True)


def test_with_a_limit_given_nothing_is_asked(console: Console) -> None:
    terminal = Terminal(console, "addvm", "web1", "--limit", "5")
    status, shown = terminal.end()
    assert status == 0
    assert "?" not in shown
    assert console.vm("web1").limit_bytes == 5 * 10**9


def test_the_questions_about_an_added_vm_offer_its_present_values(console: Console) -> None:
    console.run("addvm", "web1", "--limit", "500GB", "--reset-day", "7")
    terminal = Terminal(console, "addvm")
    terminal.expect("VM name: ")
    terminal.type("web1\n")
    terminal.expect("or unlimited) [500 GB]: ")
    terminal.type("1TB\n")
    terminal.expect("reset day, 1 to 31 [7]: ")
    terminal.type("\n")
    terminal.expect("Change web1: limit 1.00 TB, reset on day 7? [Y/n]: ")
    terminal.type("\n")
    terminal.expect("web1: limit 500 GB -> 1.00 TB\n")
    assert terminal.end()[0] == 0


def test_rmvm_asks_and_enter_means_no(console: Console) -> None:
    console.run("addvm", "web1", "--limit", "5")
    for answer, status in (("\n", 1), ("y\n", 0)):
        assert console.vm("web1")
        terminal = Terminal(console, "rmvm", "web1")
        terminal.expect("Remove web1 and its allowance? Its history stays [y/N]: ")
        terminal.type(answer)
        assert terminal.end()[0] == status
    with console.ledger() as ledger:
        assert ledger.vm_named("web1") is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ip", "192.0.2.9", "web1"], "not an address: 'web1' (write the VM before --ip)"),
        (["--mail", "a@example.com", "web1"], "--mail 'a@example.com web1': not allowed (write the VM before --mail)"),
    ],
)
def test_a_vm_after_an_option_that_takes_every_word_is_pointed_out(
    console: Console, words: list[str], says: str
) -> None:
    terminal = Terminal(console, "addvm", *words)
    assert terminal.end() == (2, f"xenbw: {says}\n")
