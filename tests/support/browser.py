"""Debian's chromium, without a window, driven by its DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from typing import Any, Self

from tests.support.pace import busy

# root may not use chromium's sandbox. The last two options keep it from asking its maker for updates.
_OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
)


class Browser:
    """One browser with one page. requests: the URLs that the page asked for since `open`. complaints: what its console
    shows, errors of scripts among them."""

    def __init__(self) -> None:
        self._profile = tempfile.mkdtemp(prefix="xenbw-chromium-")
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        # The protocol uses descriptors 3 and 4.
        wrapper = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", wrapper, "chromium", *_OPTIONS, f"--user-data-dir={self._profile}"],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._profile, "TZ": "UTC", "LC_ALL": "C.UTF-8"},
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer, self._sent = b"", 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.setCacheDisabled", cacheDisabled=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._to)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        shutil.rmtree(self._profile, ignore_errors=True)

    def look(self, width: int, height: int, *, dark: bool, scale: float = 1) -> None:
        """Use a screen of that size from the next page on."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Load a page, and wait until it is complete."""
        self.requests, self.complaints, self._loaded = [], [], False
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert failed is None, f"{url}: {failed}"
        while not self._loaded:
            self._receive()
        self.ask("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        given = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", **given)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """What the screen shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol; returns its result."""
        self._sent += 1
        message: dict[str, object] = {"id": self._sent, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._sent:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self) -> Mapping[str, Any]:
        deadline = time.monotonic() + busy(60)
        while b"\0" not in self._buffer:
            ready = select.select([self._from], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, "chromium does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "chromium has ended"
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, told: Mapping[str, Any]) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(told["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told))
            case "Page.javascriptDialogOpening":
                self.complaints.append(f"a dialog: {told['message']}")
            case "Page.loadEventFired":
                self._loaded = True
