"""The pages in man/ document every command, option and key of the program, and no others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from argparse import Action, ArgumentParser
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.support import commandline, manpage
from xenbw import config, quota
from xenbw.cli.main import addvm_parser, parser
from xenbw.config import Settings, WebhookSection
from xenbw.daemon import loop
from xenbw.errors import UsageError
from xenbw.model import VM, Allowance, Amounts, Binding, Block, Cause, Counters, Digest, Kind, Period, State
from xenbw.report.account import Account
from xenbw.report.audit import Audit, Audited
from xenbw.report.document import detail, explanation, listing
from xenbw.report.explanation import Line
from xenbw.report.tripwires import Held
from xenbw.tell.document import document
from xenbw.tell.message import Case

REPO = Path(__file__).parents[2]
PAGES = sorted(path.name for path in manpage.FOLDER.iterdir())
PROGRAMS = {"xenbw.1": parser(), "xenbw-addvm.1": addvm_parser(), "xenbwd.8": loop.parser()}
TOML_PAGE = "man/xenbw.toml.5"
SHIPPED = REPO / "etc/xenbw.toml"
# The sections, each with what its keys are without a file. A [[section]] has no keys then.
SECTIONS = {section.name: getattr(Settings(), section.name) or WebhookSection for section in fields(Settings)}
KEYS = [(name, key.name) for name, kind in SECTIONS.items() for key in fields(kind)]

AT = datetime(2026, 11, 20, tzinfo=UTC)
ADDRESSES = (IPv6Address("2001:db8::10"),)
PERIOD = Period(AT.replace(day=1), AT.replace(month=12, day=1))

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def section(page: str, title: str) -> manpage.Lines:
    return manpage.parts(manpage.read(page), "SH")[title]


def tag(option: Action) -> str:
    """An option as a list of options shows it: "--limit SIZE"."""
    return " ".join(filter(None, (", ".join(option.option_strings), commandline.value(option))))


def synopsis(name: str, command: ArgumentParser) -> str:
    """A command as the list of commands shows it: "show VM [--json]"."""
    common = commandline.long_names(parser())
    arguments = (
        f"[{argument.metavar}]" if argument.nargs == "?" else str(argument.metavar)
        for argument in commandline.positionals(command)
    )
    options = (
        tag(option) if option.required else f"[{tag(option)}]"
        for option in commandline.options(command)
        if commandline.long_name(option) not in common
    )
    return " ".join((name, *arguments, *options))


@pytest.mark.parametrize("page", PAGES)
def test_man_renders_the_page_without_a_warning(page: str) -> None:
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(manpage.FOLDER / page)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"},
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("page", PAGES)
def test_the_page_s_heading_has_no_date_and_no_version(page: str) -> None:
    """So neither a build nor a release changes the page."""
    name, _, number = page.rpartition(".")
    heading = (manpage.FOLDER / page).read_text(encoding="ascii").splitlines()[0].replace(r"\-", "-")
    assert re.fullmatch(rf'\.TH {name.upper()} {number} "" xenbw "[A-Z][A-Za-z ]+"', heading)


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_the_sections_of_its_kind_in_their_order(page: str) -> None:
    """man-pages(7) defines the order."""
    if page in PROGRAMS:
        order = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS"]
    else:
        order = ["NAME", "DESCRIPTION"]
    order += ["ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"]
    assert [title for title in manpage.parts(manpage.read(page), "SH") if title in order] == order


@pytest.mark.parametrize("page", PAGES)
def test_every_page_of_ours_that_it_names_exists(page: str) -> None:
    named = re.findall(r"\b(xenbw[\w.-]*) ?\((\d)\)", manpage.text(manpage.read(page)))
    assert {f"{name}.{number}" for name, number in named} <= set(PAGES)
    also = manpage.text(section(page, "SEE ALSO"))
    assert all(f"{other.rpartition('.')[0]}(" in also for other in PAGES if other != page)


@pytest.mark.parametrize(("page", "program"), PROGRAMS.items(), ids=list(PROGRAMS))
def test_the_options_are_those_of_the_parser(page: str, program: ArgumentParser) -> None:
    assert set(manpage.entries(section(page, "OPTIONS"))) == {tag(option) for option in commandline.options(program)}


@pytest.mark.parametrize(("page", "program"), PROGRAMS.items(), ids=list(PROGRAMS))
def test_the_synopsis_has_every_option_that_does_something(page: str, program: ArgumentParser) -> None:
    shown = set(_OPTION.findall(manpage.text(section(page, "SYNOPSIS"))))
    assert shown == commandline.long_names(program) - {"--help", "--version"}


def test_the_commands_are_those_of_the_parser_with_their_arguments_and_options() -> None:
    expected = {synopsis(name, command) for name, command in commandline.commands().items() if name != "addvm"}
    assert set(manpage.entries(section("xenbw.1", "COMMANDS"))) == {*expected, "addvm [VM] [OPTION ...]"}


@pytest.mark.parametrize("name", sorted(commandline.commands().keys() - {"addvm"}))
def test_a_command_s_options_are_explained(name: str) -> None:
    command = commandline.commands()[name]
    explained = manpage.entries(section("xenbw.1", "COMMANDS"))[synopsis(name, command)]
    own = commandline.long_names(command) - commandline.long_names(parser()) - {"--json"}
    assert own <= set(_OPTION.findall(explained))


@pytest.mark.parametrize("program", [addvm_parser(), commandline.commands()["addvm"]], ids=lambda program: program.prog)
def test_addvm_shows_the_vm_before_the_options_that_would_take_it(program: ArgumentParser) -> None:
    assert program.format_usage().startswith(f"usage: {program.prog} [VM] [OPTION ...]\n")
    assert "xenbw-addvm [VM] [--config" in manpage.text(section("xenbw-addvm.1", "SYNOPSIS"))


@pytest.mark.parametrize("page", PROGRAMS)
def test_every_named_option_exists(page: str) -> None:
    programs = [*PROGRAMS.values(), *commandline.commands().values()]
    known = set[str]().union(*map(commandline.long_names, programs))
    # A line of an example that calls MongoDB's own tools has their options.
    own = [line for line in manpage.read(page) if not line.text.startswith(("mongodump ", "mongorestore "))]
    assert set(_OPTION.findall(manpage.text(own))) <= known


def typed() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of each call of xenbw in an example, split into words."""
    for page in PROGRAMS:
        for example in manpage.examples(section(page, "EXAMPLES")):
            for call in re.split(r"[\n;|]\s*", example):
                if re.match(r"xenbw(-addvm)? ", call):
                    yield page, call.replace("'shop 2'", "shop-2").split()


@pytest.mark.parametrize(("page", "words"), [*typed()], ids=lambda given: given if isinstance(given, str) else given[0])
def test_the_commands_of_the_examples_parse(page: str, words: list[str]) -> None:
    (addvm_parser if words[0] == "xenbw-addvm" else parser)().parse_args(words[1:])


def test_the_states_are_all_that_a_vm_can_have() -> None:
    assert set(manpage.entries(section("xenbw.1", "STATES"))) == set(State)


def shape(value: Any) -> Any:
    """The keys of a document, with its lists."""
    if isinstance(value, Mapping):
        return {key: shape(inner) for key, inner in value.items()}
    return list(map(shape, value[:1])) if isinstance(value, list) else type(value).__name__


def test_the_json_has_the_keys_that_list_show_and_explain_print() -> None:
    vm, used = VM(1, "web1", AT, mail=("customer@example.com",)), Counters(1, 2)
    allowance = Allowance(1000, rate=10**7, rate_in=5 * 10**6, hard_limit_bytes=2000)
    account = Account(vm, allowance, PERIOD, used, quota.stand(vm, allowance, True, used, PERIOD), running=True)
    block = Block(1, Cause.QUOTA, "over", AT, AT, AT, "lifted")
    binding = Binding(1, 1, "boot", 7, 0, Kind.VIF, 9, "vif7.0", AT, "00:16:3e:00:00:01", ADDRESSES, "xenbr0")
    ended = replace(binding, ended_at=AT, end_reason="offline")
    earlier = Digest(412, AT, AT, "offline", ADDRESSES, Amounts(1, 2))
    shown = detail(account, [block], [ended], [(AT, used, 0)], [earlier], [(AT, "released", "web1")])
    counters = Counters(1, 2)
    audit = Audit((Audited(ended, counters, counters, counters, None),), 0.5, None, None)
    explained = explanation(account, [Line(used, ended)], [(AT, "a gap")], audit, [Held("trip", "total", 5, 7)], None)
    examples = manpage.examples(section("xenbw.1", "JSON OUTPUT"))
    listed, added, parts = (json.loads(example) for example in examples)
    assert shape(listed) == shape(listing("dom0-a", AT, [account]))
    assert shape({**listed["vms"][0], **added}) == shape(shown)
    assert shape({**listed["vms"][0], **parts}) == shape(explained)


def test_the_json_for_the_command_has_the_keys_that_it_is_sent() -> None:
    case = Case("dom0-a", "web1", "over", ADDRESSES, PERIOD, AT, ZoneInfo("UTC"), Allowance(1000), 1001)
    sent = json.loads(document("null-routed", case, "over", ("subject", "text"), AT))
    example, _ = manpage.examples(section("xenbw.toml.5", "SECTIONS"))
    assert shape(json.loads(example)) == shape({"id": "1.20261120", **sent})


# xenbw.toml(5)


def documented() -> dict[tuple[str, str], tuple[str, str]]:
    """(section, key) -> the line with its default, as the page has it, and the page's text."""
    found = {}
    for title, lines in manpage.parts(section("xenbw.toml.5", "SECTIONS"), "SS").items():
        for line, told in manpage.entries(lines).items():
            found[title.strip("[]"), line.partition(" = ")[0]] = line, told
    return found


def shipped() -> dict[tuple[str, str], str]:
    """The same of etc/xenbw.toml, with the # taken away."""
    found, title = {}, ""
    for line in SHIPPED.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"#?\[+(\w+)\]+", line):
            title = heading[1]
        elif key := re.fullmatch(r"#?((\w+) = .+)", line):
            found[title, key[2]] = key[1]
    return found


def default(key: tuple[str, str]) -> Any:
    return getattr(SECTIONS[key[0]], key[1], None)


def loaded(line: str, key: tuple[str, str], folder: Path) -> Any:
    """The value that a line gives a key."""
    heading = f"[{key[0]}]"
    if isinstance(SECTIONS[key[0]], type):
        needed = {"url": 'url = "https://a.example.org"', "secret": 'secret = "0123456789abcdef"'}
        heading = "\n".join([f"[{heading}]", *(other for name, other in needed.items() if name != key[1])])
    (folder / "xenbw.toml").write_text(f"{heading}\n{line}\n", encoding="utf-8")
    section = getattr(config.load(folder / "xenbw.toml"), key[0])
    return getattr(section[0] if isinstance(section, tuple) else section, key[1])


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_every_key_is_in_xenbw_toml_5_with_its_default(key: tuple[str, str], tmp_path: Path) -> None:
    assert (
        key in documented()
    ), f"add to {TOML_PAGE}, below .SS [{key[0]}]: .TP, .B {key[1]} = its default, and its text"
    line, _ = documented()[key]
    if " = " in line:
        assert loaded(line, key, tmp_path) == default(key), f"{TOML_PAGE} has another default: {line}"
    else:
        assert default(key) is None, f"{TOML_PAGE} says of [{key[0]}] {key[1]} that nothing is set by default"


def allowed(key: tuple[str, str]) -> set[str]:
    """The allowed values, as the program's errors name them."""
    known = fields(SECTIONS[key[0]])
    check: Callable[[Any], Any] = next(item for item in known if item.name == key[1]).metadata["check"]
    said = set()
    for wrong in ("not, allowed", ["not, allowed"], 10**9):
        try:
            check(wrong)
        except UsageError as error:
            said.add(error.message)
    return said


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_the_allowed_values_are_given_in_the_words_of_the_program(key: tuple[str, str]) -> None:
    _, told = documented()[key]
    found = re.search(r"Allowed: (.*)\.$", told)
    assert found, f"{TOML_PAGE}: the text of [{key[0]}] {key[1]} must end with: Allowed: {' or '.join(allowed(key))}."
    assert found[1] in allowed(key)


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_every_key_is_in_etc_xenbw_toml_with_its_default_or_an_example(key: tuple[str, str], tmp_path: Path) -> None:
    assert key in shipped(), f"add to {SHIPPED.relative_to(REPO)}, below [{key[0]}]: #{key[1]} = its default"
    value = loaded(shipped()[key], key, tmp_path)
    # If nothing is set by default, the file shows an example.
    assert value == default(key) or not default(key), f"etc/xenbw.toml has another default: {shipped()[key]}"


def test_neither_file_has_an_unknown_key() -> None:
    assert documented().keys() - KEYS == set()
    assert shipped().keys() - KEYS == set()


def test_the_examples_of_xenbw_toml_5_parse(tmp_path: Path) -> None:
    for example in manpage.examples(section("xenbw.toml.5", "EXAMPLES")):
        assert tomllib.loads(example)
        (tmp_path / "xenbw.toml").write_text(example, encoding="utf-8")
        assert config.load(tmp_path / "xenbw.toml") != Settings()
