"""A headless Chromium, driven over its DevTools websocket."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

from tests.clients import DEADLINE

#: What Debian and others call it.
NAMES = ("chromium", "chromium-browser", "google-chrome")


class Page:
    """One page; ``websocket`` is its DevTools connection."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self.number = 0

    def run(self, script: str) -> Any:
        """What the JavaScript expression ``script`` evaluates to; it may be a promise."""
        params = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", **params)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        """Go to ``url``; return when the page is loaded."""
        self.call("Page.enable")
        self.call("Page.navigate", url=url)
        self._receive(lambda message: message.get("method") == "Page.loadEventFired")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        self.number += 1
        self.websocket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        return self._receive(lambda message: message.get("id") == self.number)["result"]

    def _receive(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        # load comes after the answer to Page.navigate, and nobody waits for other events.
        while not wanted(message := json.loads(self.websocket.recv(DEADLINE))):
            pass
        return message


@contextlib.contextmanager
def browsing(url: str, directory: Path) -> Iterator[Page]:
    """Open ``url``; ``directory`` is for the browser's own files and log."""
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        raise AssertionError(f"This test needs a browser: none of {', '.join(NAMES)} is installed")
    profile = directory / "profile"
    command = [
        *(found[0], "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"),
    ]
    log = directory / "chromium.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        port_file = profile / "DevToolsActivePort"
        address = _wait(lambda: _page_address(port_file), process, log)
        with connect(address, proxy=None, max_size=None, open_timeout=DEADLINE) as websocket:
            page = Page(websocket)
            page.open(url)
            yield page
    finally:
        # Its helpers are of its process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(DEADLINE)


def _page_address(port_file: Path) -> str | None:
    port = port_file.read_text().partition("\n")[0] if port_file.exists() else ""
    if not port:
        return None
    with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=DEADLINE) as response:
        targets = json.load(response)
    pages = (one for one in targets if one["type"] == "page")
    return next((one["webSocketDebuggerUrl"] for one in pages), None)


def _wait(condition: Any, process: subprocess.Popen[bytes], log: Path) -> Any:
    end = time.monotonic() + 3 * DEADLINE
    while not (found := condition()):
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"Chromium does not start:\n{log.read_text(errors='replace')}")
        time.sleep(0.05)
    return found
