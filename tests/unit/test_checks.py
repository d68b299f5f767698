"""Limits of a configuration and a command line: enough for any person, too little to stall the daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.console import Console
from xenbw import checks, config
from xenbw.errors import UsageError

MANY = 257


@pytest.mark.parametrize(
    ("check", "entry"),
    [
        (checks.networks, "192.0.2.1"),
        (checks.some_networks, "192.0.2.0/24"),
        (checks.paths, "/etc/xen"),
        (checks.texts, "text"),
        (checks.mail_addresses, "noc@example.com"),
        (checks.arguments, "/bin/true"),
    ],
)
def test_a_list_has_at_most_256_entries(check: Callable[[Any], tuple[object, ...]], entry: str) -> None:
    assert len(check([entry] * (MANY - 1))) <= MANY - 1
    with pytest.raises(UsageError, match="at most 256 entries and not 257"):
        check([entry] * MANY)


def test_a_text_has_at_most_4096_letters() -> None:
    assert checks.text("x" * 4096)
    with pytest.raises(UsageError, match="at most 4,096 letters, not 4,097"):
        checks.text("x" * 4097)


def test_a_mistake_in_a_configuration_is_one_short_line(tmp_path: Path) -> None:
    file = tmp_path / "xenbw.toml"
    file.write_text(f"[enforce]\nprotect = {['192.0.2.1'] * 100_000}\n")
    with pytest.raises(UsageError) as failure:
        config.load(file)
    said = str(failure.value)
    assert "[enforce] protect" in said
    assert "not 100,000" in said
    assert len(said) < 500


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("block", "web1", "--reason", "x" * 501), "a reason of 501 letters"),
        (("addvm", "web1", "--force", "--limit", "1GB", "--allow", *["192.0.2.1"] * MANY), "--allow: 257 addresses"),
        (("addvm", "web1", "--force", "--limit", "1GB", "--ip", *["192.0.2.1"] * MANY), "--ip: 257 addresses"),
    ],
)
def test_an_excessive_command_line_is_refused_in_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    console = Console(tmp_path)
    assert console.run("addvm", "web1", "--force", "--limit", "5GB").returncode == 0
    result = console.run(*words)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert said in line
    assert len(line) < 200
    vm = console.vm("web1")
    assert (vm.blocked_reason, vm.limit_bytes, vm.allow, vm.ips) == (None, 5 * 10**9, None, ())
