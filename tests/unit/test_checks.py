"""Limits of a configuration and a command line: enough for any person, too little to stall the daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.console import Console
from xenbw import checks, config
from xenbw.errors import UsageError
from xenbw.ledger import sound
from xenbw.model import Action

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


@pytest.mark.parametrize("line", ['[ledger]\npath = "/a\\u0000b"', '[toolstack]\nconfig_dirs = ["/a\\u0000b"]'])
def test_a_path_with_a_nul_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "xenbw.toml"
    file.write_text(f"{line}\n")
    with pytest.raises(UsageError, match="allowed: an absolute path"):
        config.load(file)


@pytest.mark.parametrize("address", ["=?utf-7?q?+2AA-?=@example.com", "=?utf-8?q?=0d=0aBcc:_x?= <noc@example.com>"])
def test_an_address_has_no_encoded_word(address: str) -> None:
    for check, value in ((checks.mail_address, address), (checks.tenant_addresses, [address])):
        with pytest.raises(UsageError, match="mail address"):
            check(value)


def test_a_webhook_s_scheme_is_kept_in_small_letters_as_the_ledger_expects_it() -> None:
    url = checks.webhook_url("HTTPS://Panel.example.org/A?b=C")
    assert url == "https://Panel.example.org/A?b=C"
    assert sound._is_queue(f"webhook {url}")


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


def test_the_defaults_of_a_throttle_are_read(tmp_path: Path) -> None:
    file = tmp_path / "xenbw.toml"
    file.write_text(
        '[default]\naction = "throttle"\nrate = "10Mbit"\nrate_in = "2.5MB/s"\nlimit = "1TB"\nhard_limit = "1TB"\n'
    )
    default = config.load(file).default_allowance
    assert (default.action, default.rate, default.rate_in) == (Action.THROTTLE, 10**7, 2 * 10**7)
    assert (default.limit_bytes, default.hard_limit_bytes) == (10**12, 10**12)


def test_a_later_file_can_take_the_rate_and_the_hard_limit_away(tmp_path: Path) -> None:
    file, later = tmp_path / "xenbw.toml", tmp_path / "xenbw.toml.d"
    file.write_text('[default]\nrate = "10Mbit"\nhard_limit = "1TB"\n')
    later.mkdir()
    (later / "a.toml").write_text('[default]\nrate = ""\nhard_limit = "unlimited"\n')
    default = config.load(file).default_allowance
    assert (default.rate, default.hard_limit_bytes) == (None, None)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('rate = "10"', "rate = '10': not allowed (allowed: a rate from 8kbit to 100Gbit, like"),
        ('rate = "1kbit"', "rate = '1kbit': not allowed"),
        ('rate = "0Mbit"', "rate = '0Mbit': not allowed"),
        ('rate = "101Gbit"', "rate = '101Gbit': not allowed"),
        ("rate = 10000000", "rate = 10000000: not allowed"),
        ('hard_limit = "never"', "hard_limit = 'never': not allowed"),
        (
            'action = "throttle"',
            "action = 'throttle': there is no rate to throttle to (write a rate into [default], like",
        ),
        ('rate_in = "1Mbit"', "rate_in = '1Mbit': there is no rate for the other direction (write a rate"),
        (
            'limit = "2GB"\nhard_limit = "1GB"',
            "hard_limit = '1GB': below the limit (write a hard_limit that is not below limit, or \"unlimited\")",
        ),
    ],
)
def test_a_wrong_or_contradictory_throttle_is_an_error_that_says_what_to_write(
    tmp_path: Path, lines: str, said: str
) -> None:
    file = tmp_path / "xenbw.toml"
    file.write_text(f"[default]\n{lines}\n")
    with pytest.raises(UsageError) as failure:
        config.load(file)
    (line,) = str(failure.value).splitlines()
    assert line.startswith(f"{file}: [default] {said}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('limit = "1TB"', "limit: above the first section (write a key below the head of its section, [default])"),
        ("interval = 5", "interval: above the first section (write a key below the head of its section, [meter] or ["),
        ("protect = []", "protect: above the first section (write a key below the head of its section, [enforce])"),
        ("limits = 5", "limits: above the first section (write a key below the head of its section, like [default])"),
        ("[limit]", "[limit]: unknown section (known: host, "),
        ("[[limit]]", "[limit]: unknown section (known: host, "),
    ],
)
def test_a_key_above_the_first_section_is_told_from_an_unknown_section(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "xenbw.toml"
    file.write_text(f"{line}\n[default]\nenforce = true\n")
    with pytest.raises(UsageError) as failure:
        config.load(file)
    assert str(failure.value).startswith(f"{file}: {said}")


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
