"""The bash completion of xenbw and xenbw-addvm, made from their parsers: python3 -m xenbw.cli.completion prints it.

The package's build does so (debian/rules). What the parsers know is written as tables; the rest of the script is the
same for any command line.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xenbw.cli.main import addvm_parser, parser
from xenbw.cli.terminal import say

# Words that an option takes beside other values, which cannot be listed.
_WORDS = {
    "--allow": ("default", "none"),
    "--hard-limit": ("default", "none"),
    "--json": ("vnstat",),
    "--limit": ("unlimited",),
    "--mail": ("none",),
    "--rate": ("default",),
    "--rate-in": ("default",),
}
# Metavars of files, and of VMs. Those to be added are asked of the toolstack, all others of the ledger.
_FILES = ("DIR", "FILE", "URI_OR_FOLDER")
_VM = "VM"
_ADDS = ("addvm", "xenbw-addvm")

_SCRIPT = r"""# shellcheck shell=bash
# bash completion for xenbw and xenbw-addvm. VMs' names are data: compared and quoted, never evaluated.

# Reads the line up to the cursor as the shell does, into variables of the caller. words: those before the cursor,
# without their quotes; current: the one at the cursor. quote: a quote that is open there. kept: the part of current
# that readline leaves alone; it replaces what follows an open quote or the last unquoted one of COMP_WORDBREAKS.
_xenbw_split() {
  local line=${COMP_LINE:0:COMP_POINT} i char opened='' begun=
  words=() current='' quote='' kept=''
  for ((i = 0; i < ${#line}; i++)); do
    char=${line:i:1}
    case $quote$char in
      "''" | '""') quote='' ;;
      \"\\)
        case ${line:i+1:1} in [\$\`\"\\]) char=${line: ++i:1} ;; esac
        current+=$char
        ;;
      [\'\"]?) current+=$char ;;
      [\'\"]) quote=$char opened=$current begun=1 ;;
      \\) current+=${line: ++i:1} begun=1 ;;
      [[:blank:]])
        [ -z "$begun" ] || words+=("$current")
        current='' kept='' begun=''
        ;;
      *)
        current+=$char begun=1
        [[ $COMP_WORDBREAKS != *"$char"* ]] || kept=$current
        ;;
    esac
  done
  [ -z "$quote" ] || kept=$opened
}

# Puts the candidates that begin with the current word into COMPREPLY, quoted for the place of the cursor.
_xenbw_offer() {
  local candidate rest
  for candidate; do
    [[ $candidate == "$current"* ]] || continue
    rest=${candidate:${#kept}}
    case $quote in
      \') rest=${rest//\'/"'\\''"} ;;
      \")
        rest=${rest//\\/\\\\}
        rest=${rest//\"/\\\"}
        rest=${rest//\$/\\\$}
        rest=${rest//\`/\\\`}
        # Between double quotes a backslash does not keep bash's history away from a "!".
        rest=${rest//!/'"\!"'}
        ;;
      *) [ -z "$rest" ] || printf -v rest %q "$rest" ;;
    esac
    COMPREPLY+=("$rest")
  done
}

# The VMs that xl, or on old hosts xm, lists, one a line. Rows are read from their right end, for a name may hold
# anything. A domain that is going away has no name; one that migrates has a suffix to it.
_xenbw_running() {
  local toolstack=xl row='[0-9]+ +[0-9]+'
  command -v xl >/dev/null || toolstack=xm
  timeout 2 "$toolstack" list </dev/null 2>/dev/null | LC_ALL=C sed -nE -e "1d
    s/^(.*[^ ]) {7,}$row +[0-9]+\.[0-9] *\$/\1/
    t name
    s/^(.*[^ ]) +[0-9]+ +$row( +[-?A-Za-z]{6}| {11}) +[0-9]+\.[0-9] *\$/\1/
    t name
    d
    :name
    s/--(incoming|migratedaway)\$//
    /^(Domain-0|\(null\))\$/d
    p"
}

# The VMs in the ledger, each with a NUL after it. $@: the --config that was given.
_xenbw_known() {
  timeout 5 xenbw list --json "$@" </dev/null 2>/dev/null | python3 -ISc '
import json, sys
for vm in json.load(sys.stdin)["vms"]:
    sys.stdout.buffer.write(vm["name"].encode(errors="backslashreplace") + b"\0")
' 2>/dev/null
}

# What the command $1 takes, into variables of the caller: its options; those of them that take a value, and those that
# take several; and its argument: a command, a file, a VM that is known or runs, or one among some words. usage: $1.
_xenbw_usage() {
  usage=$1 options=() valued='' several='' argument=''
  case $1 in
@USAGE@
  esac
}

# Offers values of the option $1. $2 stands before each: "--count=", or nothing.
_xenbw_values() {
  case $1 in
@VALUES@
  esac
}

# Offers words for the argument of the command; fails if it takes none.
_xenbw_argument() {
  local names=()
  case $argument in
    command) names=(@COMMANDS@) ;;
    file) compopt -o default ;;
    known) mapfile -d '' -t names < <(_xenbw_known ${config:+"--config=$config"}) ;;
    running) mapfile -t names < <(_xenbw_running) ;;
    among\ *) read -ra names <<<"${argument#among }" ;;
    *) return 1 ;;
  esac
  _xenbw_offer "${names[@]}"
}

_xenbw() {
  local words current quote kept config='' option='' taken='' word usage options valued several argument
  COMPREPLY=()
  _xenbw_split
  _xenbw_usage "${1##*/}"
  for word in "${words[@]:1}"; do
    if [ -n "$option" ]; then
      if [[ $several != *" $option "* ]]; then
        [ "$option" != --config ] || config=$word
        option=''
        continue
      fi
      [[ $word == -* ]] || continue
      option=''
    fi
    case $word in
      --config=*) config=${word#*=} ;;
      -*) [[ "$valued$several" != *" $word "* ]] || option=$word ;;
      *) if [ "$argument" = command ]; then _xenbw_usage "$word"; else taken=1; fi ;;
    esac
  done
  if [[ $several == *" $option "* && $current == -* ]]; then
    option=''
  fi
  if [ -n "$option" ]; then
    _xenbw_values "$option" ''
  elif [[ $current == --*=* ]]; then
    _xenbw_values "${current%%=*}" "${current%%=*}="
  elif [ -n "$taken" ] || [[ $current == -* ]] || ! _xenbw_argument; then
    _xenbw_offer "${options[@]}"
    # What follows a > is a file, for example.
    [ -n "${COMPREPLY[*]}" ] || compopt -o default
  fi
}
complete -F _xenbw xenbw xenbw-addvm
"""


@dataclass(frozen=True)
class _Usage:
    """What one command takes. Options are named in full, each with its action."""

    options: Mapping[str, argparse.Action]
    argument: str

    @classmethod
    def of(cls, name: str, program: argparse.ArgumentParser) -> _Usage:
        options, argument = {}, ""
        for action in program._actions:
            if action.option_strings:
                options[next(word for word in action.option_strings if word.startswith("--"))] = action
            else:
                argument = _argument(name, action)
        return cls(dict(sorted(options.items())), argument)

    def line(self, name: str) -> str:
        valued = [option for option, action in self.options.items() if action.nargs in (None, "?")]
        several = [option for option, action in self.options.items() if action.nargs == "+"]
        return (
            f"    {name}) argument={shlex.quote(self.argument)} valued={_among(valued)} several={_among(several)}\n"
            f"      options=({shlex.join(self.options)}) ;;"
        )


def _argument(name: str, action: argparse.Action) -> str:
    if isinstance(action, argparse._SubParsersAction):
        return "command"
    if action.metavar == _VM:
        return "running" if name in _ADDS else "known"
    if action.choices:
        return f"among {' '.join(action.choices)}"
    return "file" if action.metavar in _FILES else ""


def _among(words: Sequence[str]) -> str:
    """Words with blanks around them, in which the script looks for one."""
    return f"' {' '.join(words)} '" if words else "''"


def _values(usages: Mapping[str, _Usage]) -> Iterator[str]:
    """A line for each option with values that can be told; where commands differ, one for each command."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, usage in usages.items():
        for option, action in usage.options.items():
            if offer := _offer(option, action):
                found.setdefault(option, {}).setdefault(offer, []).append(name)
    for option, offers in sorted(found.items()):
        if len(offers) == 1:
            yield f"    {option}) {next(iter(offers))} ;;"
        else:
            cases = " ".join(f"{'|'.join(names)}) {offer} ;;" for offer, names in offers.items())
            yield f"    {option}) case $usage in {cases} esac ;;"


def _offer(option: str, action: argparse.Action) -> str:
    """The command that offers the option's values, or "" if they cannot be told."""
    if action.metavar in _FILES:
        return "compopt -o default"
    if action.nargs == 0:
        return ""
    words = _WORDS.get(option) or tuple(action.choices or ())
    offered = " ".join(f'"$2"{shlex.quote(word)}' for word in words)
    return f"_xenbw_offer {offered}" if words else ""


def script() -> str:
    """The whole script. The same parsers make the same bytes."""
    xenbw = parser()
    (commands,) = (action for action in xenbw._actions if isinstance(action, argparse._SubParsersAction))
    programs = {"xenbw": xenbw, "xenbw-addvm": addvm_parser(), **dict(sorted(commands.choices.items()))}
    usages = {name: _Usage.of(name, program) for name, program in programs.items()}
    tables = {
        "@USAGE@": "\n".join(usage.line(name) for name, usage in usages.items()),
        "@VALUES@": "\n".join(_values(usages)),
        "@COMMANDS@": shlex.join(sorted(commands.choices)),
    }
    text = _SCRIPT
    for mark, table in tables.items():
        text = text.replace(mark, table)
    return text.rstrip("\n")


if __name__ == "__main__":
    say(script())
