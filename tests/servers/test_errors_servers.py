"""What raises what it should not, on every ASGI server: see ``errorsapp.py``."""

import contextlib

import pytest

from tests.servers.test_servers import CANNOT, DENIAL
from tests.support import clients
from tests.support.servers import TRACEBACK, wait_until

APP = "tests.apps.errorsapp:app"

#: What is raised, and what the log says of it.
KINDS = {
    "exit": "SystemExit: 3",
    "interrupt": "KeyboardInterrupt",
    "close": "GeneratorExit",
    "cancel": "CancelledError",
}

#: The servers that take, or break off, an accept that others refuse.
TAKEN = {
    "subprotocol": {
        "uvicorn-websockets": (101,),
        "uvicorn-sansio": (101,),
        "uvicorn-wsproto": (None,),
        "granian": (101,),
        "gunicorn": (101,),
    },
    "header": {"uvicorn-wsproto": (101,), "granian": (101,), "gunicorn": (101,)},
}


@contextlib.contextmanager
def logged(server, *texts):
    """Wait for ``texts`` in what the server writes from now on; it still serves afterwards."""
    since = server.position()
    yield
    for text in texts:
        wait_until(lambda text=text: text in server.logged(since), f"{text!r} in the log", server)
    assert clients.get(server, "/").body == b"A page"


kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_an_async_view(server, kind):
    with logged(server, f"'/view/{kind}' failed", KINDS[kind]):
        answer = clients.get(server, f"/view/{kind}")
    assert (answer.status, answer.whole) == (500, True)


@kinds
@pytest.mark.parametrize("what", ["function", "consumer"])
def test_a_websocket_that_is_open(server, what, kind):
    with logged(server, f"/{what}/{{when}}/{{kind}} (", KINDS[kind]):
        with clients.websocket(server, f"/{what}/late/{kind}") as websocket:
            assert clients.closed(websocket).code == 1011


@kinds
@pytest.mark.parametrize("what", ["function", "consumer"])
def test_a_websocket_that_is_not_open_yet(server, what, kind):
    with logged(server, f"/{what}/{{when}}/{{kind}} (", KINDS[kind]):
        status = clients.handshake_status(server, f"/{what}/early/{kind}")
    assert status == (403 if server.name in CANNOT[DENIAL] else 500)


@kinds
def test_an_http_consumer(server, kind):
    with logged(server, f"/http/early/{kind}' failed", KINDS[kind]):
        answer = clients.get(server, f"/http/early/{kind}")
    assert (answer.status, answer.whole) == (500, True)


@kinds
def test_an_http_consumer_whose_response_has_begun_is_broken_off(server, kind):
    with logged(server, KINDS[kind]):
        assert not clients.get(server, f"/http/late/{kind}").whole


@pytest.mark.parametrize("what", ["function", "consumer"])
def test_a_websocket_whose_task_the_project_cancels_ends(server, what):
    with clients.websocket(server, f"/{what}/late/kick") as websocket:
        close = clients.closed(websocket)
    if what == "function" or server.name in ("daphne", "hypercorn"):
        assert close.code == 1011
    status = clients.handshake_status(server, f"/{what}/early/kick")
    assert status in (403, 500)


def test_a_request_whose_task_the_project_cancels_ends(server):
    assert clients.get(server, "/http/early/kick").status in (500, None)
    assert not clients.get(server, "/http/late/kick").whole


@kinds
@pytest.mark.parametrize("path", ["/request", "/relay"])
def test_the_work_of_a_websocket(server, path, kind):
    with logged(server, f"{path}/{{kind}} (", KINDS[kind]):
        with clients.websocket(server, f"{path}/{kind}") as websocket:
            assert clients.closed(websocket).code == 1011


@kinds
def test_a_handshake(server, kind):
    with logged(server, "The handshake of ", KINDS[kind]):
        status = clients.handshake_status(server, f"/guarded/{kind}")
    assert status == (403 if server.name in CANNOT[DENIAL] else 500)


@pytest.mark.parametrize("what", ["type", "body", "status", "start"])
def test_what_a_server_does_not_know_is_no_answer_to_a_handshake(server, what):
    status = clients.handshake_status(server, f"/refused/{what}")
    # Servers without denials do not know them, and Daphne takes any type of message.
    assert status == (403 if server.name in CANNOT[DENIAL] else 500)


@pytest.mark.parametrize("what", ["subprotocol", "header"])
def test_an_accept_that_a_server_refuses_is_no_answer_to_a_handshake(server, what):
    status = clients.handshake_status(server, f"/refused/{what}")
    assert status in TAKEN[what].get(server.name, (403 if server.name in CANNOT[DENIAL] else 500,))
    assert clients.get(server, "/").body == b"A page"


def test_an_unknown_message_closes_a_websocket_that_is_open(server):
    with clients.websocket(server, "/unknown") as websocket:
        # These two take it.
        code = 1000 if server.name in ("daphne", "gunicorn") else 1011
        assert clients.closed(websocket).code == code


def test_an_http_consumer_that_sends_a_body_first(server):
    # gunicorn raises only afterwards, and answers that itself.
    line = () if server.name == "gunicorn" else ("GET '/body_first' failed",)
    with logged(server, *line):
        answer = clients.get(server, "/body_first")
    assert (answer.status, answer.whole) == (500, True)


def test_an_http_consumer_whose_start_is_refused(server):
    with logged(server, "'/no_status' failed"), clients.raw(server) as connection:
        connection.sendall(b"GET /no_status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with connection.makefile("rb") as file:
            received = file.read()
    # Uvicorn takes it for started, and breaks it off.
    assert b"500 Internal Server Error" in received or not received


def test_an_http_consumer_that_returns_without_a_response(server):
    line = "/silent (function tests.apps.errorsapp.silent) returned without its response"
    with logged(server, line):
        answer = clients.get(server, "/silent")
    assert (answer.status, answer.whole) == (500, True)


def test_an_http_consumer_that_returns_before_the_end_of_its_response(server):
    line = "(function tests.apps.errorsapp.unended) returned before the end of its response"
    with logged(server, line), clients.raw(server) as connection:
        connection.settimeout(1)
        connection.sendall(b"GET /unended HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
    assert b"\r\n0\r\n" not in received


def test_an_http_consumer_that_sends_text_as_a_body(server):
    line = "/text (function tests.apps.errorsapp.text) must send bytes as body, not str"
    with logged(server, line):
        answer = clients.get(server, "/text")
    # Granian has sent nothing yet.
    assert answer.status == 500 if server.name == "granian" else not answer.whole


def test_an_http_consumer_whose_client_has_left_owes_nothing(server):
    with logged(server, "leaving has left"):
        since = server.position()
        with clients.raw(server) as connection:
            connection.sendall(b"GET /leaving HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: "leaving waits" in server.logged(since), "the consumer", server)
            clients.leave(connection)
    assert TRACEBACK not in server.logged(since)
    assert "ERROR" not in server.logged(since)


@pytest.mark.parametrize("how", ["deny", "close", "raise", "return", "accept", "guarded"])
def test_a_client_that_leaves_during_its_handshake_is_no_error(server, how):
    since = server.position()
    with clients.raw(server) as connection:
        head = [f"GET /slow/{how} HTTP/1.1", "Host: localhost", *clients.UPGRADE, "", ""]
        connection.sendall("\r\n".join(head).encode())
        wait_until(lambda: f"{how} has begun" in server.logged(since), "the handshake", server)
        clients.leave(connection)
    assert clients.get(server, f"/go/{how}").body == b"gone on"
    wait_until(lambda: f"{how} has ended" in server.logged(since), "its end", server)
    # It is logged after that, in good time for these.
    for _ in range(3):
        assert clients.get(server, "/").body == b"A page"
    assert TRACEBACK not in server.logged(since)
    assert "ERROR" not in server.logged(since)


def test_what_comes_before_an_accept_takes_no_place(server):
    with clients.raw(server) as connection:
        head = ["GET /hasty HTTP/1.1", "Host: localhost", *clients.UPGRADE, "", ""]
        # With the text "x", masked with zeros.
        connection.sendall("\r\n".join(head).encode() + b"\x81\x81\0\0\0\0x")
        clients.read_until(connection, b"\r\n\r\n")
        clients.leave(connection)

    def has_place():
        return clients.handshake_status(server, "/hasty") == 101

    wait_until(has_place, "its place", server)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/head", "/path_send"])
def test_a_response_that_has_ended_is_left_alone(server, path, method):
    since = server.position()
    answer = clients.get(server, path, method=method)
    assert (answer.status, answer.whole) == (200, True)
    assert clients.get(server, "/").status == 200
    assert TRACEBACK not in server.logged(since)
