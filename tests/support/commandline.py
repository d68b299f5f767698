"""The commands and options of the parsers of xenbw, xenbw-addvm and xenbwd, to compare the documentation with."""

from __future__ import annotations

from argparse import Action, ArgumentParser, _SubParsersAction

from xenbw.cli.main import parser


def commands() -> dict[str, ArgumentParser]:
    """The commands of xenbw, each with its parser."""
    found = next(action for action in parser()._actions if isinstance(action, _SubParsersAction))
    return dict(found.choices)


def options(program: ArgumentParser) -> list[Action]:
    """The options, in the order of --help."""
    return [action for action in program._actions if action.option_strings]


def positionals(program: ArgumentParser) -> list[Action]:
    """The positional arguments; a command with arguments of its own is not one."""
    return [action for action in program._actions if not action.option_strings and action.metavar != "COMMAND"]


def long_name(option: Action) -> str:
    """The option's long name."""
    return next(name for name in option.option_strings if name.startswith("--"))


def long_names(program: ArgumentParser) -> set[str]:
    """The names of all options."""
    return {long_name(option) for option in options(program)}


def value(action: Action) -> str:
    """The placeholder of the value: "SIZE", "in|out", "ADDR ..."; "" for an option without a value."""
    if action.nargs == 0:
        return ""
    word = "|".join(action.choices) if action.choices else str(action.metavar)
    return f"{word} ..." if action.nargs == "+" else f"[{word}]" if action.nargs == "?" else word
