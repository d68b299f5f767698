"""Every failure is one line on standard error that says what to do, and an exit status: 1 failed, 2 not understood."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.console import Console, StandIn
from xenbw import __version__
from xenbw.ledger import vmlog

NOBODY = 65534
NOW = datetime.now(UTC)


def line(result: subprocess.CompletedProcess[str]) -> str:
    """The error's one line, with nothing else said."""
    assert result.stdout == ""
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.strip()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["addvm", "web1", "--limit", "10 bananas"], "xenbw: not a size: '10 bananas' (write it like 500GB"),
        (["addvm", "web1", "--limit", "0"], "xenbw: size out of range: '0'"),
        (["addvm", "web1", "--limit", "1", "--reset-day", "32"], "xenbw: not a reset day: '32' (a whole number from 1"),
        (["addvm", "web1", "--limit", "1", "--reset-day", "²"], "xenbw: not a reset day: '²'"),
        (["addvm", "web1", "--limit", "1", "--warn", "0"], "xenbw: not a percentage to warn at: '0'"),
        (["addvm", "web1", "--limit", "1", "--count", "both"], "xenbw: argument --count: invalid choice: 'both'"),
        (["addvm", "web1", "--limit", "1", "--ip", "10.0.0.0/24"], "xenbw: not one address: '10.0.0.0/24'"),
        (["addvm", "web1", "--limit", "1", "--ip", "fe80::1%eth0"], "xenbw: not an address: 'fe80::1%eth0'"),
        (["addvm", "web1", "--limit", "1", "--ip", "0.0.0.0"], "xenbw: 0.0.0.0 cannot be a VM's address"),
        (
            ["addvm", "web1", "--limit", "1", "--ip", "255.255.255.255"],
            "xenbw: 255.255.255.255 cannot be a VM's address",
        ),
        (["addvm", "web1", "--limit", "1", "--ip", "::1"], "xenbw: ::1 cannot be a VM's address"),
        (["addvm", "Domain-0", "--limit", "1", "--force"], "xenbw: Domain-0 is not a VM"),
        (["addvm", "", "--limit", "1"], "xenbw: the name of a VM is empty"),
        (["addvm", "--limit", "1"], "xenbw: no VM was named (xenbw addvm VM --limit 500GB, or --all)"),
        (["addvm", "--limit", "1", "--mail", "a@x.de", "web1"], "xenbw: no VM was named (write the VM before --mail)"),
        (
            ["addvm", "--allow", "none", "--ip", "192.0.2.9", "web1"],
            "xenbw: no VM was named (write the VM before --ip and --allow)",
        ),
        (["addvm", "web1", "--all"], "xenbw: --all takes no VM, --ip or --config-file"),
        (["lst"], "xenbw: argument COMMAND: invalid choice: 'lst'"),
        ([], "xenbw: the following arguments are required: COMMAND (see xenbw --help)"),
        (["show"], "xenbw: the following arguments are required: VM (see xenbw show --help)"),
        (["show", "shop", "2"], "xenbw: unrecognized arguments: 2 (quote a name or size with spaces; see xenbw show"),
        (["addvm", "web1", "--limit", "1", "GB"], "xenbw: unrecognized arguments: GB (quote a name or size with"),
        (["show", "web1", "--jsn"], "xenbw: unrecognized arguments: --jsn (see xenbw show --help)"),
        (["--versoin"], "xenbw: unrecognized arguments: --versoin (see xenbw --help)"),
        (["--versoin", "list"], "xenbw: unrecognized arguments: --versoin (see xenbw --help)"),
        (["list", "--colour\x1b[2J"], "xenbw: unrecognized arguments: --colour\\x1b[2J"),
    ],
)
def test_a_request_that_cannot_be_understood_ends_with_2(console: Console, words: list[str], says: str) -> None:
    result = console.run(*words)
    assert result.returncode == 2
    assert line(result).startswith(says)
    assert not console.ledger_path.exists()


@pytest.mark.parametrize("command", ["show", "block", "lift", "rmvm"])
def test_an_unknown_vm_ends_with_1_and_a_hint_of_similar_names(console: Console, command: str) -> None:
    with console.ledger() as ledger:
        for name in ("web1", "web2", "WEB3", "db"):
            ledger.meet(name, NOW)
    result = console.run(command, "web", *(["--yes"] if command == "rmvm" else []))
    assert result.returncode == 1
    assert line(result) == "xenbw: no VM named 'web' is known (did you mean WEB3, web2, web1?)"


@pytest.mark.parametrize("words", [["report", "web1"], ["report", "web1", "--period", "2026-03"], ["show", "web1"]])
def test_for_a_removed_vm_the_error_says_when_it_was_removed_and_where_its_usage_is(
    console: Console, words: list[str]
) -> None:
    with console.ledger() as ledger:
        for hour in (10, 11):
            at = datetime(2026, 3, 20, hour, tzinfo=UTC)
            vmlog.retire(ledger, ledger.meet("web1", at).id, at)
        ledger.meet("web2", NOW)
    result = console.run(*words)
    assert result.returncode == 1
    assert line(result) == (
        "xenbw: the VM 'web1' was removed at 2026-03-20T11:00:00Z (commands show present VMs only; its usage is in"
        " xenbw export, and in the book)"
    )


def test_a_missing_config_file_ends_with_1(console: Console, tmp_path: Path) -> None:
    result = console.run("--config", str(tmp_path / "none.toml"), "list")
    assert result.returncode == 1
    assert line(result).startswith(f"xenbw: {tmp_path}/none.toml: No such file or directory (name another file")


@pytest.mark.parametrize("path", ["", ".", "/", "//"])
def test_a_path_that_can_name_no_file_is_one_line(console: Console, path: str) -> None:
    result = console.run("--config", path, "list")
    assert result.returncode == 2
    assert line(result) == f"xenbw: {Path(path)}: not a file (name one with --config or XENBW_CONFIG)"
    if path:
        assert console.run("list", wrap=("env", f"XENBW_CONFIG={path}")).stderr == result.stderr


def test_a_closed_standard_input_is_no_terminal(console: Console, daemon: StandIn) -> None:
    closed = ("sh", "-c", 'exec "$@" <&-', "sh")
    assert console.run("addvm", "web1", "--limit", "1TB", "--force", wrap=closed).returncode == 0
    assert console.vm("web1").limit_bytes == 10**12
    for words in (["addvm"], ["rmvm", "web1"], ["top"]):
        result = console.run(*words, wrap=closed)
        assert result.returncode == 2
        line(result)


@pytest.mark.parametrize("words", [["list", "--json"], ["report", "--json"], ["metrics"], ["export"]])
def test_without_standard_error_the_note_is_not_among_the_numbers(console: Console, words: list[str]) -> None:
    with console.ledger() as ledger:
        ledger.meet("web1", NOW)
    noted, closed = console.run(*words), console.run(*words, wrap=("sh", "-c", 'exec "$@" 2>&-', "sh"))
    assert "these numbers are as of its last commit" in noted.stderr
    assert closed.returncode == 0
    assert "last commit" not in closed.stdout
    assert len(closed.stdout.splitlines()) == len(noted.stdout.splitlines())


def test_the_config_file_can_be_named_before_and_after_the_command(console: Console, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[period]\nreset_day = 32\n")
    for words in (["--config", str(bad), "list"], ["list", "--config", str(bad)]):
        result = console.run(*words)
        assert result.returncode == 2
        assert line(result) == (
            f"xenbw: {bad}: [period] reset_day = 32: not allowed (allowed: a whole number from 1 to 31)"
        )


def test_without_a_ledger_the_error_says_how_to_get_one(console: Console) -> None:
    result = console.run("show", "web1")
    assert result.returncode == 1
    assert line(result) == (
        f"xenbw: {console.ledger_path}: there is no ledger yet (start xenbwd, or add a VM with xenbw-addvm)"
    )


def test_a_ledger_of_a_newer_xenbw_is_refused_and_left_alone(console: Console) -> None:
    console.ledger_path.parent.mkdir()
    with sqlite3.connect(console.ledger_path) as db:
        db.execute("PRAGMA user_version = 99")
    before = console.ledger_path.read_bytes()
    for words in (["list"], ["addvm", "web1", "--limit", "1"]):
        result = console.run(*words)
        assert result.returncode == 1
        assert "written by a newer xenbw (schema 99" in result.stderr.splitlines()[0]
    assert console.ledger_path.read_bytes() == before


def test_a_damaged_ledger_is_one_line_too(console: Console) -> None:
    console.ledger_path.parent.mkdir()
    console.ledger_path.write_bytes(b"no database at all, but long enough to look like one" * 40)
    result = console.run("show", "web1")
    assert result.returncode == 1
    assert line(result).startswith(f"xenbw: {console.ledger_path}: the ledger is damaged")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
@pytest.mark.parametrize("mode", [0o700, 0o755], ids=["in a folder of root's", "in a folder all may enter"])
def test_without_root_the_ledger_cannot_be_opened_and_nothing_is_written(mode: int) -> None:
    # pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        console = Console(root)
        with console.ledger() as ledger:
            ledger.meet("web1", NOW)
        console.ledger_path.parent.chmod(mode)
        for words in (["show", "web1"], ["block", "web1"], ["addvm", "web1", "--limit", "1", "--force"]):
            result = console.run_as(NOBODY, *words)
            assert result.returncode == 1
            assert "are you root?" in line(result) or "run it as root" in line(result)
        assert console.vm("web1").blocked_reason is None
        assert console.vm("web1").added_at is None


def test_output_into_a_closed_pipe_prints_no_error(console: Console) -> None:
    with console.ledger() as ledger:
        ledger.meet("web1", NOW)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "xenbw.cli.main", "list", "--json"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=console.env,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    assert b"Broken" not in done.stderr


def test_a_name_that_is_not_utf_8_is_decoded_like_the_output_of_xl_list(console: Console) -> None:
    with console.ledger() as ledger:
        ledger.meet(r"caf\xe9", NOW)
    assert console.run("show", b"caf\xe9").stdout.startswith("VM                     caf\\xe9\n")


def test_names_print_on_a_terminal_that_knows_only_ascii(console: Console) -> None:
    with console.ledger() as ledger:
        ledger.meet("東京", NOW)
    done = subprocess.run(
        [sys.executable, "-m", "xenbw.cli.main", "list"],
        capture_output=True,
        env={**console.env, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert done.returncode == 0
    assert rb"\u6771\u4eac" in done.stdout


def test_the_program_xenbw_addvm_does_the_same_as_the_command_addvm(console: Console) -> None:
    code = "import sys; from xenbw.cli.main import addvm_main; sys.exit(addvm_main())"
    words = ["web1", "--limit", "10 bananas"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, env=console.env, check=False)
    assert (done.returncode, done.stderr) == (2, console.run("addvm", *words).stderr.encode())


def test_version_prints_the_version(console: Console) -> None:
    assert console.done("--version") == f"xenbw {__version__}\n"


def test_commands_that_only_read_import_nothing_slow(console: Console) -> None:
    code = "import sys, xenbw.cli.main; print({'iptc', 'smtplib', 'pymongo', 'pyudev'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=console.env, check=True)
    assert done.stdout == b"set()\n"
