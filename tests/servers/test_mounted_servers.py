"""Contexts of applications to which the servers tell no lifespan."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import clients
from tests.support.servers import COMMANDS, TRACEBACK, free_port, running, started

WARNING = "No lifespan came before the first connection"

#: How each is told to send no lifespan.
WITHOUT = {
    "uvicorn-sansio": "--lifespan off {app}",
    "granian": "--interface asginl {app}",
    "gunicorn": "--asgi-lifespan off {app}",
}


def by_page(server, path):
    return clients.get(server, path).json


def by_websocket(server, path):
    with clients.websocket(server, path) as websocket:
        return json.loads(websocket.recv(clients.DEADLINE))


def ask_all(server, *paths):
    """What those tell that come first, together."""
    asking = [(ask, path) for path in paths for ask in (by_page, by_websocket)] * 2
    with ThreadPoolExecutor(len(asking)) as threads:
        return list(threads.map(lambda each: each[0](server, each[1]), asking))


def told(log, *names):
    """The lines of ``log`` about the contexts of ``names``, in order."""
    lines = [line.partition("The context of ")[2] for line in log.splitlines()]
    return [line for line in lines if line.startswith(names)]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mounted_application_is_started_once_and_stopped_with_the_server(name, tmp_path):
    with running(name, tmp_path, app="tests.apps.mountedapp:starlette") as server:
        assert told(server.logged(), "inner") == []
        assert ask_all(server, "/inner/x") == [{"name": "inner", "entered": 1}] * 4
        assert ask_all(server, "/outer/x") == [{"name": "outer", "entered": 1}] * 4
        assert ask_all(server, "/outer/mounted/x") == [{"name": "nested", "entered": 1}] * 4
        server.stop()
        log = server.logged()
    assert told(log, "inner") == ["inner is entered", "inner is left"]
    expected = ["outer is entered", "nested is entered", "nested is left", "outer is left"]
    assert told(log, "outer", "nested") == expected
    # Of two applications; it is Daphne's way.
    assert log.count(WARNING) == (0 if name == "daphne" else 2)
    assert TRACEBACK not in log


@pytest.mark.parametrize("name", ["hypercorn", "uvicorn-sansio"])
def test_a_dispatcher_that_hands_the_lifespan_on_is_enough(name, tmp_path):
    with running(name, tmp_path, app="tests.apps.mountedapp:dispatcher") as server:
        assert told(server.logged(), "inner") == ["inner is entered"]
        assert {each["entered"] for each in ask_all(server, "/inner/x", "/outer/x")} == {1}
        server.stop()
        log = server.logged()
    assert told(log, "inner") == ["inner is entered", "inner is left"]
    assert WARNING not in log
    # From Python 3.12 on Hypercorn 0.18 cancels its dispatcher before that has ended, whatever is
    # mounted there.
    assert log.count(TRACEBACK) == (name == "hypercorn" and sys.version_info >= (3, 12))
    assert "pyramid_asgi_consumers" not in log.partition(TRACEBACK)[2]


@pytest.mark.once
@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_cannot_name_its_own_host_behind_the_prefix_of_a_dispatcher(name, tmp_path):
    with running(name, tmp_path, app="tests.apps.mountedapp:dispatcher") as server:
        target = "/innerhttp://evil.example/x"
        assert clients.denial(server, target, origin="http://evil.example").status_code == 403


@pytest.mark.parametrize("name", WITHOUT)
def test_an_application_that_is_told_no_lifespan_is_started_and_stopped(name, tmp_path):
    port = free_port()
    command = COMMANDS[name].replace("{app}", WITHOUT[name])
    command = command.format(port=port, app="tests.apps.mountedapp:inner").split()
    with started(name, command, port, tmp_path) as server:
        # The server was asked for a page when it started.
        assert told(server.logged(), "inner") == ["inner is entered"]
        assert ask_all(server, "/x") == [{"name": "inner", "entered": 1}] * 4
        server.stop()
        log = server.logged()
    assert told(log, "inner") == ["inner is entered", "inner is left"]
    assert log.count(WARNING) == 1
    assert TRACEBACK not in log
