"""A hook is slow to record its VM, while the daemon makes the kernel's blocks what the ledger says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.host import REPO, Host
from tests.support.latch import everywhere, latched
from tests.support.pace import until

pytestmark = pytest.mark.kernel

ADDRESS = "10.50.0.11"
# Runs the hook. Before it records its vif it makes the file `there`, and waits for the file `go`.
PROGRAM = """#!/usr/bin/python3 -IS
import os, sys, time
def wait(frame, event, _):
    if frame.f_code.co_name == "_record" and "/xenbw/" in frame.f_code.co_filename:
        sys.settrace(None)
        open({there!r}, "w").close()
        while not os.path.exists({go!r}):
            time.sleep(0.01)
if os.environ["command"] == "online":
    sys.settrace(wait)
sys.path.append({lib!r})
from xenbw.hook.call import main
main()
"""


@pytest.mark.parametrize("method", ["iptables", "nft"])
def test_what_it_has_put_on_a_blocked_vm_stays(method: str) -> None:
    with Host(f'[enforce]\nnull_routes = "{method}"\n') as host:
        host.start_daemon()
        host.add("web1", blocked_reason="test")
        host.ask("sync")
        there, go = _slow_down(host)
        null_routed = host.in_chain if method == "iptables" else host.in_sets
        with ThreadPoolExecutor() as pool:
            starting = pool.submit(host.start, "web1")
            try:
                assert until(there.exists)
                assert null_routed(ADDRESS)
                for _ in range(3):
                    host.ask("sync")
                    assert null_routed(ADDRESS)
                    assert host.drops("vif1.0")
                    assert latched(host) == everywhere(1)
            finally:
                go.touch()
            guest = starting.result()
        assert guest.address() == ADDRESS
        host.ask("sync")
        assert null_routed(ADDRESS)
        assert host.drops("vif1.0")
        assert host.ask("status")["problems"] == []


def test_what_it_has_put_stays_when_a_command_applies_without_a_daemon() -> None:
    with Host() as host:
        host.start_daemon()
        host.add("web1", blocked_reason="test")
        host.ask("sync")
        host.kill_daemon()
        there, go = _slow_down(host)
        with ThreadPoolExecutor() as pool:
            starting = pool.submit(host.start, "web1")
            try:
                assert until(there.exists)
                for name in ("other", "third"):
                    host.xenbw("addvm", name, "--limit", "1GB", "--force")
                    assert host.blocked(ADDRESS)
                    assert host.drops("vif1.0")
                    assert latched(host) == everywhere(1)
            finally:
                go.touch()
            starting.result()


def _slow_down(host: Host) -> tuple[Path, Path]:
    program, there, go = (host.directory / name for name in ("slow-hook", "there", "go"))
    program.write_text(PROGRAM.format(there=str(there), go=str(go), lib=str(REPO)))
    program.chmod(0o755)
    host.hook_env["XENBW_HOOK"] = str(program)
    return there, go
