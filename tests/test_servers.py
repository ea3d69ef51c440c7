"""The example over real servers."""

import http.client
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "daphne": ["daphne", "-p", "{port}"],
    "uvicorn": ["uvicorn", "--port", "{port}", "--timeout-graceful-shutdown", "2"],
}


@pytest.fixture(scope="module", params=COMMANDS)
def port(request):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [part.format(port=port) for part in COMMANDS[request.param]]
    server = subprocess.Popen([sys.executable, "-m", *command, "examples.echo:app"], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
        yield port
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    finally:
        server.kill()
        server.wait()


def test_the_page_is_there(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(50):
        connection.request("GET", "/")
        response = connection.getresponse()
        assert (response.status, b"<h1>Echo</h1>" in response.read()) == (200, True)
    connection.close()


def test_text_and_binary_are_echoed(port):
    with connect(f"ws://127.0.0.1:{port}/ws", open_timeout=30) as websocket:
        for message in ("hello", b"\x00\xff"):
            websocket.send(message)
            assert websocket.recv(30) == message


def test_a_foreign_origin_is_refused(port):
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}/ws", origin="https://evil.test", open_timeout=30)
    assert refused.value.response.status_code == 403
