"""The completion in a real bash: it offers what the parsers understand, and names so that they arrive whole."""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
import time
from argparse import Action, ArgumentParser
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pytest

from tests.support import commandline
from tests.support.console import REPO, Console
from tests.support.pace import busy
from xenbw.cli import completion
from xenbw.cli.main import addvm_parser, parser

SCRIPT = completion.script()
# Each begins with two letters that no other one begins with.
ODD_NAMES = (
    "sp ace:col",
    "it's",
    'quo"te',
    "run$(touch pwned)",
    "tick`touch pwned`",
    "back\\slash",
    "no!no",
    "semi;colon&",
    "star*",
    "hash #",
    "eq=ual@",
    "home~{a,b}",
    "<redirect>",
    "[brackets]",
    "東京 1",
    "caf\\xe9",
    "line\nbreak\tand\x1b[2J",
)
RUNNING = {"web1", "customer-42.example.org_web+db", "ren", "sp ace:col"}

COMMANDS = {f"xenbw {name}": command for name, command in commandline.commands().items()}
PROGRAMS = {"xenbw": parser(), "xenbw-addvm": addvm_parser(), **COMMANDS}
VALUED = [
    pytest.param(line, option, id=f"{line} {commandline.long_name(option)}")
    for line, program in PROGRAMS.items()
    for option in commandline.options(program)
    if option.nargs != 0
]
CHOSEN = [given for given in VALUED if isinstance(given.values[1], Action) and given.values[1].choices]


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Console:
    """A host with xenbw on its PATH and odd names in its ledger."""
    console = Console(tmp_path_factory.mktemp("host"))
    console.script("xenbw", f'exec {shlex.quote(sys.executable)} -m xenbw.cli.main "$@"\n')
    with console.ledger() as ledger:
        for name in (*ODD_NAMES, "web1", "web2"):
            ledger.meet(name, datetime.now(UTC))
    return console


# The function as bash calls it, but for compopt, which tells what it was asked for.
DRIVER = """
eval "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:' COMPREPLY=(none yet)
compopt() { [ "$*" = '-o default' ] && printf 'a file\\0'; }
set -u
_xenbw "${2%% *}"
[ ${#COMPREPLY[@]} -eq 0 ] || printf '%s\\0' "${COMPREPLY[@]}"
"""


def offers(console: Console, line: str, **env: str) -> set[str]:
    """What is offered with the cursor at the end of this line; "a file" for readline's own completion of files."""
    done = subprocess.run(
        ["bash", "-c", DRIVER, "bash", SCRIPT, line],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**console.env, **env},
        timeout=busy(30),
    )
    assert done.stderr == b"", line
    *words, end = done.stdout.decode().split("\0")
    assert end == ""
    return set(words)


def test_the_commands_are_those_of_the_parser(console: Console) -> None:
    assert offers(console, "xenbw ") == set(commandline.commands())
    assert offers(console, "xenbw imp") == {"import", "import-bwmon"}


@pytest.mark.parametrize(("line", "program"), PROGRAMS.items(), ids=list(PROGRAMS))
def test_the_options_are_those_of_the_parser(console: Console, line: str, program: ArgumentParser) -> None:
    assert offers(console, f"{line} -") == commandline.long_names(program)


@pytest.mark.parametrize(("line", "option"), CHOSEN)
def test_an_option_s_choices_are_those_of_the_parser(console: Console, line: str, option: Action) -> None:
    name, choices = commandline.long_name(option), set(option.choices or ())
    assert offers(console, f"{line} {name} ") == choices
    # After the =, which breaks words, readline replaces what follows it.
    assert offers(console, f"{line} {name}=") == choices


@pytest.mark.parametrize(("line", "option"), VALUED)
def test_after_an_option_with_a_value_only_values_are_offered(console: Console, line: str, option: Action) -> None:
    if option.metavar in ("DIR", "FILE"):
        expected = {"a file"}
    elif option.dest == "limit":
        expected = {"unlimited"}
    elif option.dest in ("allow", "hard_limit"):
        expected = {"default", "none"}
    elif option.dest == "mail":
        expected = {"none"}
    elif option.dest == "json":
        expected = {"vnstat"}
    elif option.metavar == "RATE":
        expected = {"default"}
    else:
        expected = set(option.choices or ())
    assert offers(console, f"{line} {commandline.long_name(option)} ") == expected


@pytest.mark.parametrize(("line", "program"), COMMANDS.items(), ids=list(COMMANDS))
def test_a_command_s_argument_is_completed_by_its_kind(console: Console, line: str, program: ArgumentParser) -> None:
    argument = "".join(str(action.metavar) for action in commandline.positionals(program))
    if argument == "VM":
        assert offers(console, f"{line} w") == ({"web1"} if line == "xenbw addvm" else {"web1", "web2"})
    elif argument == "CHANNEL":
        assert offers(console, f"{line} m") == {"mail"}
    elif argument:
        assert argument in ("FILE", "URI_OR_FOLDER")
        assert offers(console, f"{line} ") == {"a file"}
    else:
        assert offers(console, f"{line} ") == commandline.long_names(program)


def test_a_second_vm_is_not_offered(console: Console) -> None:
    assert offers(console, "xenbw show web1 ") == {"--color", "--config", "--help", "--json"}
    assert offers(console, "xenbw rmvm --yes web1 w") == {"a file"}


def test_a_value_before_the_command_or_the_vm_is_not_taken_for_it(console: Console) -> None:
    config = shlex.quote(str(console.config))
    assert offers(console, f"xenbw --config {config} li") == {"list", "lift"}
    assert offers(console, f"xenbw --config={config} block --reason web1 w") == {"web1", "web2"}
    assert offers(console, "xenbw-addvm --ip 192.0.2.1 192.0.2.2 --force w") == {"web1"}
    assert offers(console, "xenbw-addvm --ip 192.0.2.1 --fo") == {"--force"}
    assert offers(console, "xenbw-addvm --allow 192.0.2.1 192.0.2.2 --force w") == {"web1"}


def test_addvm_offers_running_vms(console: Console) -> None:
    plain = {name.replace(" ", "\\ ") for name in RUNNING}
    assert offers(console, "xenbw-addvm ") == plain
    assert offers(console, "xenbw addvm ") == plain


def test_a_vm_that_migrates_is_offered_by_its_own_name_and_a_nameless_one_is_not(tmp_path: Path) -> None:
    console = Console(tmp_path)
    rows = (("Domain-0", 0), ("web1--incoming", 7), ("(null)", 8), ("7 8 9", 9), ("x" * 50, 10))
    lines = (f"{name:<40} {domid:>5}   128     1     -b----       0.0\n" for name, domid in rows)
    (tmp_path / "list").write_text("".join(("Name  ID   Mem VCPUs\tState\tTime(s)\n", *lines)))
    console.lists(tmp_path / "list")
    assert offers(console, "xenbw-addvm ") == {"web1", r"7\ 8\ 9", "x" * 50}


def test_without_xl_running_vms_come_from_xm(tmp_path: Path) -> None:
    console = Console(tmp_path)
    (tmp_path / "bin/xl").unlink()
    console.script("xm", f"[ \"$*\" = list ] && exec cat '{REPO}/tests/data/xm/xm-list.txt'\nexit 64\n")
    assert offers(console, "xenbw-addvm ", PATH=f"{tmp_path}/bin:/usr/bin:/bin") == {
        "web1",
        r"mail\ 7",
        "customer-42.example.org_web+db-and-a-long-tail",
        r"host:a\ 5",
        "stopped1",
        r"stopped\ 5",
        "a-stopped-one-with-a-name-over-forty-characters",
    }


def test_names_come_from_the_ledger_of_the_configuration_on_the_line(console: Console, tmp_path: Path) -> None:
    other = Console(tmp_path)
    with other.ledger() as ledger:
        ledger.meet("elsewhere", datetime.now(UTC))
    config = shlex.quote(str(other.config))
    for line in (f"xenbw --config {config} show ", f"xenbw show --config={config} "):
        assert offers(console, line) == {"elsewhere"}


@pytest.mark.parametrize("line", ["xenbw show ", "xenbw-addvm ", "xenbw-addvm --count=n", "xenbw what "])
def test_the_completion_is_silent_when_the_programs_that_it_asks_fail(tmp_path: Path, line: str) -> None:
    console = Console(tmp_path)
    for command in ("xl", "xenbw"):
        console.script(command, "echo nonsense; echo trouble >&2; exit 1\n")
    assert offers(console, line) <= {"a file"}


def test_a_toolstack_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    console = Console(tmp_path)
    console.script("xl", "exec sleep 60\n")
    began = time.monotonic()
    assert offers(console, "xenbw-addvm ") == set()
    assert time.monotonic() - began < busy(4)


class Prompt:
    """An interactive bash on a terminal, without anybody's settings, that knows only this completion."""

    def __init__(self, console: Console) -> None:
        self._told, self._completion = console.root / "told", console.root / "completion"
        self._completion.write_text(SCRIPT)
        self._remember(console)
        self._mine, theirs = os.openpty()
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--noprofile", "--norc", "-i"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=console.root,
            env={
                **console.env,
                "PATH": f"{console.root / 'remembered'}:{os.environ['PATH']}",
                "INPUTRC": "/dev/null",
                "TERM": "dumb",
                "TOLD": str(self._told),
                "LC_ALL": "C.UTF-8",
            },
        )
        os.close(theirs)

    @staticmethod
    def _remember(console: Console) -> None:
        """Put a xenbw there that prints what the real one did: it is started at each Tab."""
        program = console.root / "remembered/xenbw"
        if not program.exists():
            listed = console.run("list", "--json")
            assert listed.returncode == 0, listed
            program.parent.mkdir()
            program.with_name("listing").write_text(listed.stdout)
            program.write_text(f"#!/bin/sh\nexec cat {shlex.quote(str(program.with_name('listing')))}\n")
            program.chmod(0o755)

    def __enter__(self) -> Self:
        # The function hides the program from whoever types, and not from the completion, which runs it by `timeout`.
        keep = 'xenbw() { printf "%s\\0" "$@" >"$TOLD.new"; mv "$TOLD.new" "$TOLD"; }'
        self.enter(f"source {shlex.quote(str(self._completion))}; {keep}; xenbw ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._mine)

    def enter(self, keys: str) -> list[str]:
        """Type a line; what its command was called with."""
        self._told.unlink(missing_ok=True)
        os.write(self._mine, keys.encode() + b"\r")
        shown, limit = b"", time.monotonic() + busy(10)
        while not self._told.exists():
            assert time.monotonic() < limit, f"no command was run; the terminal shows {shown!r}"
            if select.select([self._mine], [], [], 0.01)[0]:
                shown += os.read(self._mine, 65536)
        return self._told.read_text().split("\0")[:-1]


@pytest.fixture
def prompt(console: Console) -> Iterator[Prompt]:
    with Prompt(console) as prompt:
        yield prompt


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("quote", ["", "'", '"'], ids=["unquoted", "single quotes", "double quotes"])
def test_an_odd_name_arrives_whole(prompt: Prompt, name: str, quote: str) -> None:
    begun = name[:2] if quote else shlex.quote(name[0]) + name[1]
    assert prompt.enter(f"xenbw show {quote}{begun}\t") == ["show", name]


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("sp\\ ace:", "sp ace:col"),
        ("sp\\ ace\\:c", "sp ace:col"),
        ("'sp ace:", "sp ace:col"),
        ("sp' 'a", "sp ace:col"),
        ('"sp ace":', "sp ace:col"),
        ("it\\'", "it's"),
        ('it"', "it's"),
        ('"quo\\"', 'quo"te'),
        ("run\\$", "run$(touch pwned)"),
        ("eq=", "eq=ual@"),
        ("'eq=", "eq=ual@"),
    ],
)
def test_a_name_is_completed_from_any_place_in_it(prompt: Prompt, typed: str, name: str) -> None:
    assert prompt.enter(f"xenbw show {typed}\t") == ["show", name]


def test_no_name_was_run_as_a_command(prompt: Prompt, console: Console) -> None:
    prompt.enter("xenbw show run\t tick\t")
    assert not (console.root / "pwned").exists()


def test_files_are_completed_by_readline(prompt: Prompt, console: Console) -> None:
    (console.root / "a file").touch()
    assert prompt.enter("xenbw --config a\t list") == ["--config", "a file", "list"]
    assert prompt.enter("xenbw list --config=a\t") == ["list", "--config=a file"]
    prompt.enter("xenbw list --json 2> a\t; xenbw end")
    assert not (console.root / "a").exists()


def test_the_script_can_be_sourced_in_a_shell_with_nounset() -> None:
    done = subprocess.run(["bash", "-uc", SCRIPT], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_script_passes_shellcheck() -> None:
    done = subprocess.run(["shellcheck", "-"], input=SCRIPT, capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


# As in a package build: Python's own modules, no time zones, and none of the libraries that xenbw runs with.
BUILD = ["/usr/bin/env", "-i", "PYTHONTZPATH=", f"PYTHONPATH={REPO}", "LC_ALL=C", "/usr/bin/python3", "-S", "-B"]


@pytest.mark.parametrize("seed", ["0", "1"])
def test_a_package_build_makes_the_same_bytes_with_python_s_own_modules_alone(seed: str) -> None:
    argv = [*BUILD[:2], f"PYTHONHASHSEED={seed}", *BUILD[2:], "-m", "xenbw.cli.completion"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{SCRIPT}\n", "")
