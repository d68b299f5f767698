"""Unknown programs are judged by their exit status; none can delay this process or get extra arguments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.pace import busy, until
from tests.support.program import script
from xenbw.tell import executable
from xenbw.tell.carrier import DeliveryError

TEXT = b"one\ntwo \xff\n"


@contextmanager
def failing(expected: str) -> Iterator[None]:
    with pytest.raises(DeliveryError) as caught:
        yield
    assert str(caught.value) == expected
    assert not caught.value.permanent


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_program_gets_its_arguments_unchanged_and_the_text_to_the_byte(tmp_path: Path) -> None:
    program = script(tmp_path / "p", f"cd {tmp_path}; printf '%s\\n' \"$@\" > args; cat > text")
    executable.run([str(program), "two words", "$(reboot); `reboot` 'x", "*"], TEXT, 5)
    assert (tmp_path / "args").read_text().splitlines() == ["two words", "$(reboot); `reboot` 'x", "*"]
    assert (tmp_path / "text").read_bytes() == TEXT


def test_a_program_runs_in_the_root_folder_and_in_a_session_of_its_own(tmp_path: Path) -> None:
    program = script(
        tmp_path / "p", f"pwd > {tmp_path}/cwd; ps -o sid= -p $$ > {tmp_path}/sid; echo $$ >> {tmp_path}/sid"
    )
    executable.run([str(program)], b"", 5)
    assert (tmp_path / "cwd").read_text() == "/\n"
    session, pid = (tmp_path / "sid").read_text().split()
    assert session == pid


def test_a_program_that_reads_nothing_is_not_waited_for(tmp_path: Path) -> None:
    executable.run([str(script(tmp_path / "p", "exit 0"))], bytes(10 * 1024**2), 5)


@pytest.mark.parametrize("status", [1, 67, 75, 255])
def test_an_exit_status_other_than_0_is_a_failure_to_be_repeated(tmp_path: Path, status: int) -> None:
    program = script(tmp_path / "p", f"exit {status}")
    with failing(f"{program} ended with status {status} (journalctl -u xenbw-notify has what it said)"):
        executable.run([str(program)], TEXT, 5)


def test_a_crashed_program_is_reported_with_its_signal(tmp_path: Path) -> None:
    program = script(tmp_path / "p", "kill -SEGV $$")
    with failing(f"{program} was ended by signal 11"):
        executable.run([str(program)], TEXT, 5)


def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    with failing(f"{tmp_path}/p: not found (is its package installed?)"):
        executable.run([f"{tmp_path}/p"], TEXT, 5)


def test_a_script_with_a_missing_interpreter_is_reported(tmp_path: Path) -> None:
    program = script(tmp_path / "p")
    program.write_text("#!/usr/bin/no-such-shell\n")
    with failing(f"{program}: the interpreter that its first line names was not found"):
        executable.run([str(program)], TEXT, 5)


def test_a_file_that_is_not_executable_is_reported(tmp_path: Path) -> None:
    program = script(tmp_path / "p", "exit 0")
    program.chmod(0o644)
    with failing(f"{program}: not executable (run chmod +x on it)"):
        executable.run([str(program)], TEXT, 5)


def test_a_file_that_is_not_a_program_is_reported(tmp_path: Path) -> None:
    program = script(tmp_path / "p")
    program.write_text("exit 0\n")
    with failing(f"{program}: not a program (a script begins with a line like #!/bin/sh)"):
        executable.run([str(program)], TEXT, 5)


def test_a_program_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    program = script(tmp_path / "p", "trap '' TERM", f"sleep 1000 & echo $! $$ > {tmp_path}/pids; wait; sleep 1000")
    begin = time.monotonic()
    with failing(f"{program} was killed: it had not ended after 0.5 s"):
        executable.run([str(program)], TEXT, 0.5)
    assert time.monotonic() - begin < busy(3)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    # init reaps the processes that it started, when it gets to it.
    assert until(lambda: not any(map(alive, pids)))


def test_processes_that_a_program_leaves_to_finish_its_work_are_not_killed(tmp_path: Path) -> None:
    program = script(tmp_path / "p", f"(sleep 0.3; echo done > {tmp_path}/late) & exit 0")
    executable.run([str(program)], TEXT, 5)
    limit = time.monotonic() + busy(5)
    while not (tmp_path / "late").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    assert (tmp_path / "late").exists()


def test_if_this_process_is_ended_the_program_is_killed_too(tmp_path: Path) -> None:
    program = script(tmp_path / "p", f"echo $$ > {tmp_path}/pid; sleep 1000")
    code = (
        "import signal, sys; from xenbw.tell import executable\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "executable.run([sys.argv[1]], b'', 1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(program)])
    limit = time.monotonic() + busy(10)
    while not (tmp_path / "pid").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(0.1)
    os.kill(parent.pid, signal.SIGTERM)
    assert parent.wait(10) == 143
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_signal_that_comes_as_the_program_starts_still_ends_both(tmp_path: Path) -> None:
    program = script(tmp_path / "p", f"echo $$ > {tmp_path}/pid; sleep 1000")
    code = (
        "import os, signal, subprocess, sys; from xenbw.tell import executable\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "start = subprocess.Popen\n"
        "def popen(*words, **options):\n"
        "    child = start(*words, **options)\n"
        "    while not os.path.exists(sys.argv[2]) or not os.path.getsize(sys.argv[2]): pass\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return child\n"
        "subprocess.Popen = popen\n"
        "executable.run([sys.argv[1]], b'', 1000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(program), str(tmp_path / "pid")], check=False, timeout=busy(20)
    )
    assert done.returncode == 143
    assert not alive(int((tmp_path / "pid").read_text()))


def test_megabytes_of_output_go_to_our_output_and_fill_no_pipe(tmp_path: Path) -> None:
    program = script(tmp_path / "p", "head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2")
    code = "import sys; from xenbw.tell import executable; executable.run([sys.argv[1]], b'', 20)"
    done = subprocess.run([sys.executable, "-c", code, str(program)], capture_output=True, check=True)
    assert (len(done.stdout), len(done.stderr)) == (5_000_000, 5_000_000)
