"""Functions that ``add_websocket`` declared, on every ASGI server."""

import json

import pytest
from websockets.frames import Close

from tests.support import clients
from tests.support.servers import TRACEBACK, wait_until

APP = "tests.apps.serverapp:app"


def happened(server, what):
    return clients.get(server, "/state").json.get(what, 0)


def test_messages_are_echoed_until_the_client_leaves(server):
    since = server.position()
    with clients.websocket(server, "/function/echo") as websocket:
        for message in ("text", b"binary", "x" * 2**20):
            websocket.send(message)
            assert websocket.recv(clients.DEADLINE) == message
    wait_until(lambda: happened(server, "function left"), "the end of the iteration", server)
    assert TRACEBACK not in server.settled(since)


@pytest.mark.parametrize("how", ["closes", "breaks off"])
def test_a_function_that_is_busy_is_cancelled_when_its_client_leaves(server, how):
    since = server.position()
    what = f"busy client {how}".replace(" ", "-")
    with clients.websocket(server, f"/function/busy/{what}") as websocket:
        assert websocket.recv(clients.DEADLINE) == "busy"
        if how == "breaks off":
            clients.leave(websocket.socket)
    wait_until(lambda: happened(server, what), "the cancellation", server)
    assert TRACEBACK not in server.settled(since)


def test_messages_that_a_busy_function_did_not_receive_are_kept_in_order(server):
    with clients.websocket(server, "/function/late") as websocket:
        for message in "abcde":
            websocket.send(message)
        assert [websocket.recv(clients.DEADLINE) for _ in "abcde"] == list("abcde")


def test_a_function_that_only_sends_ends_when_its_client_leaves(server):
    since = server.position()
    with clients.websocket(server, "/function/sender") as websocket:
        websocket.recv(clients.DEADLINE)
        clients.leave(websocket.socket)
    wait_until(lambda: happened(server, "sender left"), "the end of the function", server)
    assert TRACEBACK not in server.settled(since)


@pytest.mark.parametrize(
    ("message", "code"),
    [("{", 1007), (b"{}", 1003)],
    ids=["not JSON", "not text"],
)
def test_what_a_function_cannot_read_is_one_line_in_the_log(server, message, code):
    since = server.position()
    with clients.websocket(server, "/function/json") as websocket:
        websocket.send(message)
        assert clients.closed(websocket) == Close(code, "")
    log = server.settled(since)
    assert log.count(f"closes with {code}") == 1
    assert TRACEBACK not in log


def test_json_is_read_and_written(server):
    with clients.websocket(server, "/function/json") as websocket:
        websocket.send('{"a": "\xfc"}')
        assert json.loads(websocket.recv(clients.DEADLINE)) == {"got": {"a": "\xfc"}}
        websocket.send("not binary")
        assert clients.closed(websocket) == Close(1003, "")


def test_a_close_code_and_its_reason(server):
    with clients.websocket(server, "/function/close") as websocket:
        assert clients.closed(websocket) == Close(4321, "enough")


def test_a_function_that_returns_without_accept(server):
    since = server.position()
    assert clients.denial(server, "/function/returns").status_code == 403
    log = server.settled(since)
    assert log.count("function_returns returned without accept()") == 1
    assert TRACEBACK not in log
