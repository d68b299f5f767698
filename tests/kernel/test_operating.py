"""docs/operating.md is true: each command in it is run in a miniature dom0, in its order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.host import Host

pytestmark = pytest.mark.kernel

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operating.md"
# They need the whole machine, or a mail server; tests/deb and tests/unit run them.
ELSEWHERE = {"xenbw doctor", "xenbw notify --test", "systemctl reload xenbwd"}


def commands() -> list[str]:
    """The page's command lines: a paragraph of them is indented by four blanks."""
    return re.findall(r"^ {4}(\S.*)$", PAGE.read_text(encoding="utf-8"), re.M)


def test_each_command_of_the_operators_page_succeeds(running: Host) -> None:
    web1 = running.start("web1")
    running.start("db1")
    web1.send(100_000)
    for line in commands():
        if line in ELSEWHERE:
            continue
        program, *arguments = shlex.split(line.replace("/var/lib/xenbw", str(running.state)))
        if program == "xenbw-addvm":
            done = running.xenbw("addvm", *arguments, check=False)
        elif program == "xenbw":
            done = running.xenbw(*arguments, check=False)
        else:
            done = running.run([program, *arguments])
        assert done.returncode == 0, (line, done.stderr)
