"""Servers stop although a view or a consumer goes on when it is cancelled: see ``errorsapp.py``."""

import contextlib
import re
import signal

import pytest

from tests.servers.test_servers import ENDS, check
from tests.support import clients
from tests.support.servers import COMMANDS, free_port, running, started, wait_until

APP = "tests.apps.errorsapp:app"


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
    """A server that gives its connections a second."""
    shorter = re.sub(r"(timeout|shutdown) \d", r"\1 1", COMMANDS[request.param])
    monkeypatch.setitem(COMMANDS, request.param, shorter)
    return request.param


def test_sigterm_stops_it(name, tmp_path):
    with running(name, tmp_path, APP) as server, stubborn(server):
        status = server.stop()
        log = server.logged()
    check(server, ENDS, "The context is left" in log)
    assert status in (0, -signal.SIGTERM)
    assert "destroyed" not in log


@pytest.mark.once
def test_a_task_that_a_function_has_started_does_not_hold_it_up(name, tmp_path):
    with running(name, tmp_path, APP) as server, clients.websocket(server, "/stubborn/parent"):
        assert server.stop() in (0, -signal.SIGTERM)


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


#: Those that send no lifespan, and wait for what has been entered without.
WITHOUT_LIFESPAN = {
    "daphne": "{app}",
    "uvicorn-sansio": "--lifespan off {app}",
}


def listens(server):
    """Nothing is asked of the application."""
    with clients.raw(server):
        return True


@contextlib.contextmanager
def hanging(name, directory, hangs):
    """A server without a lifespan, whose contexts are being entered for its first connection."""
    port = free_port()
    command = COMMANDS[name].replace("{app}", WITHOUT_LIFESPAN[name])
    command = command.format(port=port, app="tests.apps.hangingapp:app").split()
    environ = {"HANGS": hangs}
    with started(name, command, port, directory, environ, answers=listens) as server:
        with clients.raw(server) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: "The second begins" in server.logged(), "the start", server)
            if hangs != "start":
                clients.read_until(connection, b"A page")
            yield server


@pytest.mark.parametrize("name", WITHOUT_LIFESPAN, indirect=True)
def test_a_start_for_the_first_connection_ends_with_the_server(name, tmp_path):
    with hanging(name, tmp_path, "start") as server:
        server.stop()
        log = server.logged()
    assert "The second ends" in log
    assert "The first is left" in log


@pytest.mark.parametrize("name", WITHOUT_LIFESPAN, indirect=True)
def test_a_context_that_hangs_while_it_is_left_does_not_hold_up_the_server(name, tmp_path):
    with hanging(name, tmp_path, "stop") as server:
        server.stop()
        log = server.logged()
    assert log.count("The contexts are not left after 1 s, but wait: ") == 1
    assert "The second ends" in log
    assert "The first is left" in log


@pytest.mark.parametrize("name", WITHOUT_LIFESPAN, indirect=True)
def test_a_context_that_is_never_left_does_not_hold_up_the_server(name, tmp_path):
    with hanging(name, tmp_path, "for ever") as server:
        server.stop()
        log = server.logged()
    assert "The second goes on" in log
    assert log.count("Left alone, since it goes on 1 s after it was cancelled") == 1
