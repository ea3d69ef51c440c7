"""Websockets with ``TestApp``."""

import asyncio

import pytest
import webtest
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response

from pyramid_asgi_consumers.testing import TestApp, WebSocketDisconnect, timeouts
from tests.testing.applications import accept, denial, echo, function_app, make, websocket_app

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_messages_of_each_kind():
    with websocket_app(echo).websocket("/ws") as websocket:
        for message in ("hello", "", b"\x00\xff", b""):
            websocket.send(message)
            assert websocket.receive() == message
        websocket.send_text("é")
        assert websocket.receive_text() == "é"
        websocket.send_bytes(b"x")
        assert websocket.receive_bytes() == b"x"
        websocket.send_json({"é": [1]})
        assert websocket.receive_json() == {"é": [1]}
        websocket.send_bytes(b"[1]")
        assert websocket.receive_json() == [1]
        assert websocket.close_code is None
    assert websocket.close_code == 1000


def test_a_message_of_the_wrong_kind():
    with websocket_app(echo).websocket("/ws") as websocket:
        websocket.send("hello")
        with pytest.raises(ValueError, match="Expected a message of bytes, not 'hello'"):
            websocket.receive_bytes()
        websocket.send(b"hello")
        with pytest.raises(ValueError, match="Expected a message of str, not b'hello'"):
            websocket.receive_text()
        websocket.send("hello")
        with pytest.raises(ValueError, match="Expecting value"):
            websocket.receive_json()
        with pytest.raises(TypeError, match="must be str or bytes, not 7"):
            websocket.send(7)
        with pytest.raises(TypeError, match="must be str, not b'x'"):
            websocket.send_text(b"x")
        with pytest.raises(TypeError, match="must be bytes, not 'x'"):
            websocket.send_bytes("x")


def test_the_handshake():
    scopes = []

    async def consumer(scope, receive, send):
        scopes.append(scope)
        await accept(
            receive, send, subprotocol="chat", headers=[(b"x-a", b"1"), (b"set-cookie", b"b=2")]
        )

    testapp = websocket_app(consumer, origins=["https://friend.test"])
    testapp.set_cookie("a", "1")
    with testapp.websocket(
        "/ws?x=%C3%A9#there",
        headers={"X-Version": "3"},
        subprotocols=["chat", "news"],
        origin="https://friend.test",
    ) as websocket:
        assert websocket.accepted_subprotocol == "chat"
        assert websocket.headers["X-A"] == "1"
    assert testapp.cookies == {"a": '"1"', "b": "2"}
    (scope,) = scopes
    assert (scope["type"], scope["scheme"], scope["path"]) == ("websocket", "ws", "/ws")
    assert scope["query_string"] == b"x=%C3%A9"
    assert scope["subprotocols"] == ["chat", "news"]
    assert scope["extensions"] == {"websocket.http.response": {}}
    headers = dict(scope["headers"])
    assert headers[b"x-version"] == b"3"
    assert headers[b"cookie"] == b'a="1"'
    assert headers[b"origin"] == b"https://friend.test"
    assert headers[b"sec-websocket-protocol"] == b"chat, news"
    assert headers[b"host"] == b"localhost:80"
    assert scope["http_version"] == "1.1"


@pytest.mark.parametrize("url", ["wss://example.com/ws", "https://example.com/ws"])
def test_a_whole_url(url):
    async def consumer(scope, receive, send):
        await accept(receive, send)
        host = dict(scope["headers"])[b"host"].decode()
        await send({"type": "websocket.send", "text": f"{scope['scheme']} {host}"})

    with websocket_app(consumer).websocket(url) as websocket:
        assert websocket.receive() == "wss example.com:443"


def test_a_foreign_origin_is_denied():
    denied = denial(websocket_app(echo), "/ws", origin="https://evil.test")
    assert denied.response.status_int == 403
    assert str(denied) == "403 Forbidden for the websocket /ws"


def test_a_path_without_a_consumer_is_denied():
    denied = denial(websocket_app(echo), "/none")
    assert denied.response.status == "404 Not Found"
    assert denied.response.text == "404\n"


def test_a_denial_is_a_webtest_response():
    async def consumer(scope, receive, send):
        await receive()
        raise HTTPFound("/", headers=[("Set-Cookie", "seen=1")])

    testapp = TestApp(make(lambda request: Response("home"), ("/ws", "websocket", consumer)))
    denied = denial(testapp, "/ws")
    response = denied.response
    assert isinstance(response, webtest.TestResponse)
    assert response.follow().text == "home"
    assert testapp.cookies == {"seen": "1"}


def test_a_denial_in_parts():
    async def consumer(scope, receive, send):
        await receive()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "websocket.http.response.start", "status": 409, "headers": headers})
        for part in (b"[1", b",2]"):
            await send(
                {"type": "websocket.http.response.body", "body": part, "more_body": part == b"[1"}
            )

    denied = denial(websocket_app(consumer), "/ws")
    assert (denied.response.status_int, denied.response.json) == (409, [1, 2])


def test_a_bare_close_is_a_denial_with_403():
    async def consumer(scope, receive, send):
        await receive()
        await send({"type": "websocket.close"})

    denied = denial(websocket_app(consumer), "/ws")
    assert denied.response.status_int == 403


def test_a_receive_that_gets_nothing_says_what_it_waited_for():
    with websocket_app(echo).websocket("/ws") as websocket:
        with pytest.raises(TimeoutError, match="0.01 s for a message from /ws"):
            websocket.receive(timeout=0.01)
        websocket.send("hello")
        assert websocket.receive() == "hello"


def test_a_consumer_that_never_answers(monkeypatch):
    monkeypatch.setattr(timeouts, "TIMEOUT", 0.5)

    async def consumer(scope, receive, send):
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match="0.5 s for the answer to the handshake from /ws"):
        denial(websocket_app(consumer), "/ws")


def test_a_consumer_that_does_not_end_with_its_client(monkeypatch):
    ended = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    app = make(None, ("/ws", "websocket", consumer), **{"asgi.leave_timeout": "0.25"})
    with pytest.raises(TimeoutError, match="consumer of /ws did not end within 0.5 s after"):
        with TestApp(app).websocket("/ws"):
            monkeypatch.setattr(timeouts, "TIMEOUT", 0.25)
    assert ended == [True]


def test_a_function_that_goes_on_is_cancelled_as_on_a_server(caplog):
    ended = []

    async def func(websocket):
        await websocket.accept()
        try:
            await websocket.wait_closed()
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with function_app(func, **{"asgi.leave_timeout": "0.01"}).websocket("/ws"):
        pass
    assert ended == [True]
    assert [message.partition(" goes on ")[2] for message in caplog.messages] == [
        "0.01 s after its client has left: cancelled"
    ]


def test_a_function_that_has_not_received_is_cancelled_as_on_a_server(caplog):
    ended = []

    async def func(websocket):
        await websocket.accept()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with function_app(func).websocket("/ws") as websocket:
        for message in ("one", "two"):
            websocket.send(message)
    assert (ended, caplog.messages) == ([True], [])


def test_a_test_that_fails_midway_leaves_nothing_running():
    ended = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with TestApp(make(None, ("/ws", "websocket", consumer))) as testapp:
        with pytest.raises(ZeroDivisionError), testapp.websocket("/ws"):
            raise ZeroDivisionError
        assert ended == [True]


def test_a_consumer_that_ends_without_a_close():
    async def consumer(scope, receive, send):
        await accept(receive, send)
        raise WebSocketDisconnect(1006)

    with websocket_app(consumer).websocket("/ws") as websocket:
        with pytest.raises(WebSocketDisconnect) as disconnected:
            websocket.receive()
    assert disconnected.value.code == 1006
    assert disconnected.value.__cause__ is None
