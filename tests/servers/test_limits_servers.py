"""What one client may send, and how many connections one user has, on every ASGI server."""

import contextlib
import re
import struct

import pytest

from tests.support import clients
from tests.support.servers import PROJECT, TRACEBACK, wait_until

pytestmark = pytest.mark.streams

APP = "tests.apps.limitsapp:app"


def happened(server, what):
    return clients.get(server, "/state").json.get(what, 0)


@pytest.fixture(autouse=True)
def quiet(server):
    """The test leaves no traceback in the server's log."""
    since = server.position()
    yield
    assert TRACEBACK not in server.logged(since)


KINDS = pytest.mark.parametrize("path", ["/consumer", "/mounted", "/function", "/guarded"])


@KINDS
@pytest.mark.parametrize("message", ["é" * 501, b"x" * 300_000])
def test_a_message_that_is_too_long_closes_with_1009(server, path, message):
    name = {"/mounted": "consumer", "/guarded": "function"}.get(path, path[1:])
    before, since = happened(server, f"{name} 1009"), server.position()
    with clients.websocket(server, path) as websocket:
        for fine in ("x" * 1000, b"x" * 1000, "é" * 500):
            websocket.send(fine)
            assert websocket.recv(clients.DEADLINE) == "got"
        websocket.send(message)
        assert clients.closed(websocket).code == 1009
    wait_until(lambda: happened(server, f"{name} 1009") > before, "the end", server)
    assert server.logged(since).count("bytes (max_message) came from 127.0.0.1") <= 1


@KINDS
def test_more_messages_than_max_rate_close_with_1008(server, path):
    with clients.websocket(server, path) as websocket:
        for _ in range(20):
            websocket.send("x")
            assert websocket.recv(clients.DEADLINE) == "got"
        websocket.send("x")
        assert clients.closed(websocket).code == 1008


@KINDS
def test_a_client_that_floods_is_closed(server, path):
    name = {"/mounted": "consumer", "/guarded": "function"}.get(path, path[1:])
    before = happened(server, f"{name} 1008")
    # A server that has not read all may keep the connection for a while.
    with clients.websocket(server, path, close_timeout=1) as websocket:
        with contextlib.suppress(clients.ConnectionClosed):
            for _ in range(500):
                websocket.send("x" * 100)
        end = clients.closed(websocket)
    # Granian 2.8 and Hypercorn 0.18 break off after their close, with what is still on its way.
    if end is not None or server.name not in ("granian", "hypercorn"):
        assert end.code == 1008
    wait_until(lambda: happened(server, f"{name} 1008") > before, "the end", server)


def test_what_a_busy_function_has_not_received_counts(server):
    before = happened(server, "busy 1009")
    with clients.websocket(server, "/busy") as websocket:
        websocket.send("x" * 1001)
        assert clients.closed(websocket).code == 1009
    wait_until(lambda: happened(server, "busy 1009") > before, "the end of the function", server)


def test_a_user_has_two_connections_and_another_two_more(server):
    with contextlib.ExitStack() as stack:
        for user in ("ann", "ann", "ben"):
            stack.enter_context(clients.websocket(server, f"/guarded?user={user}"))
        assert clients.denial(server, "/guarded?user=ann").status_code in (403, 503)
    wait_until(
        lambda: clients.handshake_status(server, "/guarded?user=ann") == 101,
        "a place that is free again",
        server,
    )


def table_of_servers():
    """What ``docs/deployment.rst`` says that servers take: their rows by the servers' names."""
    text = (PROJECT / "docs" / "deployment.rst").read_text()
    table = text.partition("What servers limit themselves")[2]
    rows = re.findall(r"^([A-Z]\w+) .* (\d+) MiB +(1009|no code|breaks off)", table, re.MULTILINE)
    return {name.lower(): (int(size) * 2**20, closing) for name, size, closing in rows}


def answer_to_message_of(server, size, sent):
    """The first bytes of the answer to a message of which ``sent`` of ``size`` bytes come."""
    with clients.raw(server) as connection:
        lines = ("GET /roomy HTTP/1.1", f"Host: {clients.HOST}", *clients.UPGRADE, "", "")
        connection.sendall("\r\n".join(lines).encode())
        clients.read_until(connection, b"\r\n\r\n")
        # RFC 6455 section 5.2: a final binary frame, masked with zeros.
        connection.sendall(b"\x82\xff" + struct.pack(">Q", size) + bytes(4))
        try:
            connection.sendall(bytes(sent))
            return connection.recv(64)
        except ConnectionError:
            return b""


def test_a_message_that_the_server_itself_does_not_take_ends_as_documented(server):
    size, closing = table_of_servers()[server.name.partition("-")[0]]
    if server.name == "daphne":
        # As it was started.
        size *= 2
    # Gunicorn 27 unmasks each byte in Python, and ends a worker that takes too long.
    taken = 2**20 if server.name == "gunicorn" else size
    assert answer_to_message_of(server, taken, taken) == b"\x81\x03got"
    # These count what has come; the others look at the frame's head, and would reset what follows.
    sent = size + 1 if server.name in ("hypercorn", "uvicorn-wsproto") else 0
    answer = answer_to_message_of(server, size + 1, sent)
    if closing == "breaks off":
        assert answer == b""
    elif closing == "no code":
        assert answer == b"\x88\x00"
    else:
        assert answer[:1] == b"\x88"
        assert int.from_bytes(answer[2:4], "big") == int(closing)
