"""Login, guarded consumers and refusals on every ASGI server."""

import contextlib
import json

import pytest

from tests.servers.test_servers import ACCEPT_HEADERS, CANNOT, DENIAL, check
from tests.support import clients
from tests.support.project import cookies_of
from tests.support.servers import COMMANDS, TRACEBACK, running

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    environ = {"DATABASE": str(directory / "database")}
    with running(request.param, directory, "tests.apps.projectapp:app", environ=environ) as server:
        yield server


@pytest.fixture(scope="module")
def login(server):
    """The headers of somebody who has logged in."""
    answer = clients.get(server, "/login", method="POST", headers=FORM, body=b"name=ann")
    assert answer.status == 200
    return {"Cookie": cookies_of(answer_headers(answer)).decode()}


def answer_headers(answer):
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    return {"headers": headers}


def test_a_guarded_websocket_after_login(server, login):
    with clients.websocket(server, "/rooms/blue", additional_headers=login) as websocket:
        websocket.send("a")
        first = websocket.recv(clients.DEADLINE)
        websocket.send("b")
        second = websocket.recv(clients.DEADLINE)
    assert [first[:5], int(second[5:]) - int(first[5:])] == ["ann: ", 1]


def test_the_headers_of_pyramid_go_out_with_the_accept(server, login):
    with clients.websocket(server, "/rooms/blue", additional_headers=login) as websocket:
        headers = websocket.response.headers
    cookies = [cookie.partition(";")[0] for cookie in headers.get_all("Set-Cookie")]
    check(server, ACCEPT_HEADERS, {"first=1", "second=2"} <= set(cookies))
    check(server, ACCEPT_HEADERS, headers.get("X-Marked") == "yes")
    assert "Content-Type" not in headers


def test_without_login_the_forbidden_view_answers(server):
    since = server.position()
    response = clients.denial(server, "/rooms/blue")
    assert response.status_code == 403
    check(server, DENIAL, response.headers.get("X-Reason") == "permission")
    if server.name not in CANNOT[DENIAL]:
        assert json.loads(response.body) == {"error": "forbidden", "path": "/rooms/blue"}
        assert response.headers["Content-Type"] == "application/json"
        assert "first=1; Path=/" in response.headers.get_all("Set-Cookie")
    assert TRACEBACK not in server.logged(since)


def test_a_redirect_is_a_denial_with_its_location(server):
    # Without a client that follows it.
    with clients.raw(server) as connection:
        connection.sendall(
            b"GET /moved HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        head = clients.read_until(connection, b"\r\n\r\n")
    check(server, DENIAL, head.startswith(b"HTTP/1.1 302 "))
    check(server, DENIAL, b"\r\nlocation: http://example.com/login\r\n" in head.lower())


def test_a_guarded_http_consumer(server, login):
    refused = clients.get(server, "/blue/export")
    assert (refused.status, refused.json["error"]) == (403, "forbidden")
    answer = clients.get(server, "/blue/export", headers=login)
    assert (answer.status, answer.body) == (200, b"for ann")
    assert answer.headers.get_all("Set-Cookie")[-2:] == ["first=1; Path=/", "second=2; Path=/"]
    assert answer.headers.get_all("Content-Type") == ["text/plain"]


@pytest.mark.parametrize("headers", [{}, None], ids=["refused", "admitted"])
def test_head_is_answered_without_a_body(server, login, headers):
    headers = login if headers is None else headers
    answer = clients.get(server, "/blue/export", method="HEAD", headers=headers)
    assert (answer.status, answer.body) == (200 if headers else 403, b"")


def test_open_sockets_hold_no_connection(server, login):
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = clients.websocket(server, "/rooms/blue", additional_headers=login)
            stack.enter_context(connection)
        assert clients.get(server, "/connections").body == b"-1"
        assert clients.get(server, "/", headers=login).body == b"Hello ann"
