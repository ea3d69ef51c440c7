"""Servers stop although a view or a consumer goes on when it is cancelled: see ``errorsapp.py``."""

import contextlib
import signal

import pytest

from tests import clients
from tests.servers import COMMANDS, running, wait_until
from tests.test_servers import ENDS, check

APP = "tests.errorsapp:app"


@contextlib.contextmanager
def stubborn(server):
    """Keep connections open that do not end when they are cancelled, and one that does."""
    with contextlib.ExitStack() as stack:
        for path in ("/stubborn/function", "/stubborn/consumer", "/waiting"):
            stack.enter_context(clients.websocket(server, path))
        for path, mark in (("/stubborn/stream", b"some"), ("/stubborn/view", b"")):
            connection = stack.enter_context(clients.raw(server))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            clients.read_until(connection, mark)
        wait_until(lambda: "The view began" in server.logged(), "the view", server)
        yield


@pytest.fixture(params=COMMANDS)
def name(request, monkeypatch):
    """A server that gives its connections a second or two."""
    shorter = COMMANDS[request.param].replace("timeout 5", "timeout 1")
    monkeypatch.setitem(COMMANDS, request.param, shorter.replace("shutdown 2", "shutdown 1"))
    return request.param


def test_sigterm_stops_it(name, tmp_path):
    with running(name, tmp_path, APP) as server, stubborn(server):
        status = server.stop()
        log = server.logged()
    check(server, ENDS, "The context is left" in log)
    assert status in (0, -signal.SIGTERM)
    assert "destroyed" not in log


def test_ctrl_c_stops_it(name, tmp_path):
    with running(name, tmp_path, APP) as server, clients.websocket(server, "/waiting"):
        server.interrupt()
        server.ended()


def test_ctrl_c_stops_uvicorn_although_no_signal_ends_it_then(tmp_path):
    # Of a SIGTERM it dies when it has stopped, and waits for nothing.
    with running("uvicorn-sansio", tmp_path, APP) as server, stubborn(server):
        server.interrupt()
        server.ended()
        assert "Left alone" in server.logged()
