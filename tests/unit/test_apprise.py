"""The example that hands announcements to apprise: with Debian's apprise and a real web server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import script

EXAMPLE = Path(__file__).parents[2] / "docs/examples/xenbw-apprise"
ODD = "--config=/etc/passwd\r\n<b>\x1b[2J\U0001f600"

needs_apprise = pytest.mark.skipif(shutil.which("apprise") is None, reason="apprise is not installed (tools/setup)")


def told(vm: str = "web1", kind: str = "null-routed") -> dict[str, str]:
    return {"id": "41.2026", "kind": kind, "vm": vm, "subject": f"[xenbw] {vm}: {kind}", "text": f"{vm} is it\n"}


def run(document: dict[str, str], config: Path, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess[str]:
    argv, env = [str(EXAMPLE), str(config)], {"PATH": path, "HOME": str(config.parent), "LC_ALL": "C.UTF-8"}
    return subprocess.run(argv, input=json.dumps(document), env=env, capture_output=True, text=True, check=False)


@contextmanager
def service(status: int = 200) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """A web server that apprise posts JSON to: (its port, what it got)."""
    posts: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802 (http.server's name)
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1], posts
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def configure(folder: Path, port: int) -> Path:
    path = folder / "apprise.conf"
    path.write_text(f"json://127.0.0.1:{port}/\n")
    return path


@needs_apprise
@pytest.mark.parametrize("vm", ["web1", "$(reboot)", "--tag", ODD])
def test_apprise_sends_the_announcement_with_its_id(tmp_path: Path, vm: str) -> None:
    with service() as (port, posts):
        done = run(told(vm), configure(tmp_path, port))
    assert done.returncode == 0, done.stderr
    (post,) = posts
    assert post["title"].startswith("[xenbw] ")
    assert post["type"] == "failure"
    assert "id: 41.2026" in post["message"]


@needs_apprise
def test_a_service_that_refuses_is_a_failure_so_that_xenbw_tries_again(tmp_path: Path) -> None:
    with service(500) as (port, _):
        assert run(told(), configure(tmp_path, port)).returncode != 0


def test_names_of_guests_are_no_options_of_apprise(tmp_path: Path) -> None:
    """With a stand-in that keeps its arguments and its input."""
    script(tmp_path / "apprise", f"printf '%s\\0' \"$@\" > {tmp_path}/args", f"cat > {tmp_path}/input")
    done = run(told(ODD, "warned"), tmp_path / "conf", f"{tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, done.stderr) == (0, "")
    arguments = (tmp_path / "args").read_bytes().decode().split("\0")
    assert arguments == [
        f"--config={tmp_path}/conf",
        "--input-format=text",
        "--notification-type=warning",
        f"--title=[xenbw] {ODD}: warned",
        "",
    ]
    assert (tmp_path / "input").read_bytes() == f"{ODD} is it\n\nid: 41.2026\n".encode()
