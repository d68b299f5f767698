"""What the command line imports before it does anything."""

from __future__ import annotations

import subprocess
import sys

from tests.support.host import REPO

_PROGRAM = """
import sys
from xenbw.cli import main
main.parser(sys.argv[1:])
print(*sorted(sys.modules))
"""


def imported(*words: str) -> set[str]:
    """The modules that are there once these words were understood."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words], cwd=REPO, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_a_command_imports_what_it_needs_and_no_other_command() -> None:
    found = imported("--config", "/etc/xenbw/xenbw.toml", "list")
    assert "xenbw.cli.listing" in found
    assert (
        found
        & {"xenbw.cli.addvm", "xenbw.cli.transfer", "xenbw.enforce.reconcile", "xenbw.daemon.cycle", "xenbw.book.book"}
        == set()
    )


def test_list_and_show_import_no_slow_module_of_python() -> None:
    slow = {"asyncio", "concurrent.futures", "email", "http", "logging", "multiprocessing", "ssl", "xml"}
    assert (imported("list") | imported("show", "web1")) & slow == set()


def test_help_names_every_command_and_imports_none() -> None:
    assert {name for name in imported("--help-me") if name.startswith("xenbw.cli.")} == {
        "xenbw.cli.command",
        "xenbw.cli.main",
        "xenbw.cli.refusal",
        "xenbw.cli.terminal",
    }
