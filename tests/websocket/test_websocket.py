"""What a function that ``add_websocket`` declared can do with its websocket, and how it ends."""

import asyncio
import functools
import json
import textwrap
import threading
from pathlib import Path
from types import ModuleType

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError
from pyramid.httpexceptions import HTTPConflict, HTTPFound
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import WebSocket, WebSocketDisconnect, websocket_config
from pyramid_asgi_consumers.exceptions import (
    ConfigurationError,
    InvalidJSON,
    InvalidMessage,
    WrongMessageKind,
    WSGIError,
)
from pyramid_asgi_consumers.websocket import watcher
from tests.support.asgi import body_of, run, websocket_scope

CONNECT = {"type": "websocket.connect"}


def text(message):
    return {"type": "websocket.receive", "text": message}


def left(code=1001, reason="away"):
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


class Gone(OSError):
    """What a server's ``send`` raises when the client has left."""


class Server:
    """A server's side of a websocket: it receives ``events`` and keeps what was ``sent``."""

    def __init__(self, *events):
        self.queue = asyncio.Queue()
        for event in (CONNECT, *events):
            self.queue.put_nowait(event)
        self.sent = []
        self.broken = None

    async def receive(self):
        return await self.queue.get()

    async def send(self, event):
        if self.broken is not None:
            raise self.broken
        self.sent.append(event)

    def websocket(self, **scope):
        return WebSocket(websocket_scope(**scope), self.receive, self.send)


async def opened(*events, **scope):
    """A websocket that is open, and its server."""
    server = Server(*events)
    websocket = server.websocket(**scope)
    await websocket.accept()
    server.sent.clear()
    return websocket, server


def application(func, path="/ws", settings=None, **arguments):
    config = Configurator(settings=settings)
    config.include("pyramid_asgi_consumers")
    config.add_websocket(path, func, **arguments)
    return config.make_asgi_app()


async def serve(func, *events, scope=None, **arguments):
    """What the server is told by ``func``'s application for these ``events``."""
    app = application(func, **arguments)
    return await run(app, scope or websocket_scope(), CONNECT, *events)


# What the handshake said.


async def test_the_scope_and_what_is_in_it():
    websocket = Server().websocket(
        path_params={"room": "a"},
        client=["10.0.0.1", "4711"],
        subprotocols=["a", "b"],
        **{"pyramid.registry": "registry"},
    )
    assert websocket.scope["type"] == "websocket"
    assert websocket.path_params == {"room": "a"}
    assert websocket.client == ("10.0.0.1", 4711)
    assert websocket.subprotocols == ["a", "b"]
    assert websocket.registry == "registry"


@pytest.mark.parametrize(
    ("client", "expected"),
    [(None, None), (("10.0.0.1", 80), ("10.0.0.1", 80)), (["/run/x", None], ("/run/x", None))],
)
async def test_the_client_is_a_pair_or_none(client, expected):
    assert Server().websocket(client=client).client == expected


async def test_keys_that_a_server_may_leave_out():
    websocket = Server().websocket()
    assert (websocket.client, websocket.subprotocols) == (None, [])


async def test_headers_are_text_without_regard_to_case_and_keep_repeats():
    headers = [(b"cookie", b"a=1"), (b"x-name", b"J\xf6rg"), (b"cookie", b"b=2")]
    websocket = Server().websocket(headers=headers)
    assert websocket.headers["X-Name"] == "Jörg"
    assert websocket.headers.getall("Cookie") == ["a=1", "b=2"]
    assert "COOKIE" in websocket.headers
    assert websocket.headers.get("x-none", "no") == "no"
    assert websocket.headers is websocket.headers


@pytest.mark.parametrize("name", ["request", "context", "userid"])
async def test_a_plain_consumer_has_no_request_and_is_told_how_to_get_one(name):
    with pytest.raises(RuntimeError, match=rf"{name}: .*permission=NO_PERMISSION_REQUIRED"):
        getattr(Server().websocket(), name)


async def test_a_guarded_consumer_has_request_context_and_userid():
    async def func(websocket):
        await websocket.accept()
        await websocket.send_json(
            [websocket.request.path, websocket.context, websocket.userid, websocket.path_params]
        )

    sent = await serve(
        func,
        path="/chat/{room}",
        permission=NO_PERMISSION_REQUIRED,
        factory=lambda request: "context",
        scope=websocket_scope("/chat/a"),
    )
    assert json.loads(sent[1]["text"]) == ["/chat/a", "context", None, {"room": "a"}]


async def test_work_runs_in_a_request():
    async def func(websocket):
        await websocket.accept()
        await websocket.send(await websocket.run_in_request(work, "x"))

    def work(request, argument):
        return request.path + argument

    sent = await serve(func, permission=NO_PERMISSION_REQUIRED)
    assert sent[1]["text"] == "/wsx"


async def test_a_plain_consumer_cannot_run_in_a_request():
    with pytest.raises(RuntimeError, match="permission=NO_PERMISSION_REQUIRED"):
        await Server().websocket().run_in_request(print)


# accept


async def test_accept_waits_for_the_connection_and_sends_subprotocol_and_headers():
    server = Server()
    websocket = server.websocket(subprotocols=["a", "b"])
    await websocket.accept("b", headers=[("X-A", "1"), (b"x-b", b"2"), ("x-a", "\xfc")])
    assert server.sent == [
        {
            "type": "websocket.accept",
            "subprotocol": "b",
            "headers": [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"\xfc")],
        }
    ]
    assert server.queue.empty()


async def test_accept_takes_a_mapping_of_headers():
    server = Server()
    await server.websocket().accept(headers={"X-A": "1"})
    assert server.sent[0]["headers"] == [(b"x-a", b"1")]
    assert server.sent[0]["subprotocol"] is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"subprotocol": "c"}, ValueError, r"subprotocol must be one .*\['a'\], not 'c'"),
        ({"headers": [("x", 1)]}, TypeError, r"pairs of str .* not \('x', 1\)"),
        ({"headers": [("x", "1", "2")]}, TypeError, "pairs of str"),
        ({"headers": ["x: 1"]}, TypeError, "pairs of str"),
        ({"headers": [5]}, TypeError, "pairs of str"),
        ({"headers": [("x", "\u20ac")]}, TypeError, "latin-1"),
        ({"headers": [("x", "a\r\nb: c")]}, ValueError, "names and values of HTTP"),
        ({"headers": [("x y", "a")]}, ValueError, "names and values of HTTP"),
        ({"headers": [("", "a")]}, ValueError, "names and values of HTTP"),
        ({"headers": [("Sec-WebSocket-Protocol", "a")]}, ValueError, "argument subprotocol"),
    ],
)
async def test_what_accept_cannot_send_is_refused(arguments, error, message):
    server = Server()
    websocket = server.websocket(subprotocols=["a"])
    with pytest.raises(error, match=message):
        await websocket.accept(**arguments)
    assert server.sent == []
    await websocket.accept("a")


async def test_accept_after_accept_is_an_error():
    websocket, _ = await opened()
    with pytest.raises(RuntimeError, match="accept: .* answered, .* open"):
        await websocket.accept()


async def test_a_client_that_leaves_before_accept():
    server = Server()
    server.queue.get_nowait()
    server.queue.put_nowait(left(1006))
    websocket = server.websocket()
    for _ in range(2):
        with pytest.raises(WebSocketDisconnect) as caught:
            await websocket.accept()
        assert caught.value.code == 1006
    assert server.sent == []


async def test_a_client_that_is_gone_when_it_is_accepted():
    server = Server()
    server.broken = Gone()
    websocket = server.websocket()
    with pytest.raises(WebSocketDisconnect) as caught:
        await websocket.accept()
    assert caught.value.code == 1006


# Messages.


async def test_text_and_binary_are_received_as_they_are():
    websocket, _ = await opened(
        text("a"),
        {"type": "websocket.receive", "bytes": b"b"},
        {"type": "websocket.receive", "text": "", "bytes": None},
        {"type": "websocket.receive", "text": None, "bytes": b""},
    )
    assert [await websocket.receive() for _ in range(4)] == ["a", b"b", "", b""]


async def test_receiving_by_kind():
    websocket, _ = await opened(
        text("a"),
        {"type": "websocket.receive", "text": None, "bytes": b"b"},
        text('{"a": [1, null]}'),
    )
    assert await websocket.receive_text() == "a"
    assert await websocket.receive_bytes() == b"b"
    assert await websocket.receive_json() == {"a": [1, None]}


async def test_a_message_of_the_wrong_kind_raises_and_can_be_caught():
    binary = {"type": "websocket.receive", "bytes": b"b"}
    websocket, _ = await opened(binary, text("a"), binary, text("fine"))
    for receive in (websocket.receive_text, websocket.receive_bytes, websocket.receive_json):
        with pytest.raises(WrongMessageKind) as caught:
            await receive()
        assert isinstance(caught.value, ValueError)
        assert caught.value.close_code == 1003
    assert await websocket.receive_text() == "fine"


@pytest.mark.parametrize("message", ["", "{", "NaN", "-Infinity", "[" * 100_000, "9" * 5000])
async def test_json_that_does_not_parse_raises_a_value_error(message):
    websocket, _ = await opened(text(message), text("[]"))
    with pytest.raises(InvalidJSON) as caught:
        await websocket.receive_json()
    assert isinstance(caught.value, ValueError)
    assert caught.value.close_code == 1007
    assert await websocket.receive_json() == []


async def test_what_is_sent():
    websocket, server = await opened()
    await websocket.send("a")
    await websocket.send(b"b")
    await websocket.send("")
    await websocket.send(bytearray(b"c"))
    await websocket.send(memoryview(b"d"))
    await websocket.send_text("e")
    await websocket.send_bytes(b"f")
    await websocket.send_json({"g": ["\xfc", None]})
    sent = [event.get("text", event.get("bytes")) for event in server.sent]
    assert sent == ["a", b"b", "", b"c", b"d", "e", b"f", '{"g":["\\u00fc",null]}']
    assert {event["type"] for event in server.sent} == {"websocket.send"}
    assert {len(event) for event in server.sent} == {2}
    assert type(server.sent[3]["bytes"]) is bytes


@pytest.mark.parametrize(
    ("method", "value", "error"),
    [
        ("send", {"a": 1}, TypeError),
        ("send", None, TypeError),
        ("send_text", b"a", TypeError),
        ("send_bytes", "a", TypeError),
        ("send_bytes", 1, TypeError),
        ("send_json", {1, 2}, TypeError),
        ("send_json", float("nan"), ValueError),
    ],
)
async def test_what_cannot_be_sent_is_refused(method, value, error):
    websocket, server = await opened()
    with pytest.raises(error):
        await getattr(websocket, method)(value)
    assert server.sent == []


async def test_nothing_is_sent_or_received_before_accept():
    server = Server(text("a"))
    websocket = server.websocket()
    with pytest.raises(RuntimeError, match=r"send: .*accept\(\)"):
        await websocket.send("a")
    with pytest.raises(RuntimeError, match=r"receive: .*accept\(\)"):
        await websocket.receive()
    assert server.sent == []


async def test_nothing_is_sent_after_close():
    websocket, server = await opened()
    await websocket.close()
    with pytest.raises(RuntimeError, match="send: the websocket is closed"):
        await websocket.send("a")
    assert len(server.sent) == 1


async def test_the_iteration_ends_when_the_client_leaves():
    websocket, _ = await opened(text("a"), text(""), {"type": "websocket.receive", "bytes": b"c"})
    messages = []
    async for message in websocket:
        messages.append(message)
        if message == b"c":
            await websocket.close()
    assert messages == ["a", "", b"c"]


async def test_wait_closed_discards_what_comes_in():
    websocket, server = await opened(text("a"), text("b"), left())
    await websocket.wait_closed()
    assert server.queue.empty()
    await websocket.wait_closed()


async def test_two_tasks_cannot_receive_at_once():
    websocket, server = await opened()
    waiting = asyncio.ensure_future(websocket.receive())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another task"):
        await websocket.receive()
    server.queue.put_nowait(text("a"))
    assert await waiting == "a"


# The client leaves.


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (left(), (1001, "away")),
        ({"type": "websocket.disconnect", "code": 1000, "reason": None}, (1000, "")),
        ({"type": "websocket.disconnect", "code": None}, (1005, "")),
        ({"type": "websocket.disconnect"}, (1005, "")),
    ],
)
async def test_the_client_s_leaving_is_a_websocketdisconnect(event, expected):
    websocket, server = await opened(event)
    for call in (
        websocket.receive,
        websocket.receive,
        functools.partial(websocket.send, "a"),
        websocket.accept,
        functools.partial(websocket.deny, HTTPConflict()),
    ):
        with pytest.raises(WebSocketDisconnect) as caught:
            await call()
        assert (caught.value.code, caught.value.reason) == expected
    await websocket.close()
    assert server.sent == []


@pytest.mark.parametrize("error", [Gone, RuntimeError])
async def test_a_client_that_is_gone_when_something_is_sent(error):
    websocket, server = await opened(text("a"))
    server.broken = error()
    with pytest.raises(WebSocketDisconnect) as caught:
        await websocket.send("a")
    assert caught.value.code == 1006
    with pytest.raises(WebSocketDisconnect):
        await websocket.receive()
    await websocket.close()


# close and deny


async def test_close_is_idempotent():
    websocket, server = await opened()
    await websocket.close(4001, "enough")
    await websocket.close()
    assert server.sent == [{"type": "websocket.close", "code": 4001, "reason": "enough"}]
    with pytest.raises(WebSocketDisconnect) as caught:
        await websocket.receive()
    assert (caught.value.code, caught.value.reason) == (4001, "enough")


@pytest.mark.parametrize("error", [Gone, RuntimeError])
async def test_close_where_the_client_was_faster(error):
    websocket, server = await opened()
    server.broken = error()
    await websocket.close()
    assert server.sent == []


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2999, 5000, "1000", None])
async def test_a_close_code_that_cannot_be_sent_is_refused(code):
    websocket, server = await opened()
    with pytest.raises(ValueError, match=f"close: code .*not {code!r}"):
        await websocket.close(code)
    assert server.sent == []


async def test_a_reason_that_is_too_long_is_refused():
    websocket, server = await opened()
    reason = "\xfc" * 62
    with pytest.raises(ValueError, match="close: reason must have at most 123 bytes"):
        await websocket.close(1000, reason)
    await websocket.close(1000, reason[1:])
    assert len(server.sent) == 1


async def test_close_before_accept_is_a_denial():
    server = Server()
    websocket = server.websocket()
    await websocket.close()
    await websocket.close()
    assert [event["type"] for event in server.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert server.sent[0]["status"] == 403
    with pytest.raises(RuntimeError, match="accept: .* answered, .* closed"):
        await websocket.accept()
    with pytest.raises(WebSocketDisconnect):
        await websocket.receive()


async def test_deny_sends_a_response():
    server = Server()
    response = Response(b"no", status=409, headerlist=[("X-A", "1"), ("Set-Cookie", "a=1")])
    await server.websocket().deny(response)
    start, body = server.sent
    assert start["status"] == 409
    assert start["headers"] == [
        (b"x-a", b"1"),
        (b"set-cookie", b"a=1"),
        (b"content-length", b"2"),
    ]
    assert body["body"] == b"no"


async def test_deny_sends_an_http_exception():
    server = Server()
    await server.websocket().deny(HTTPFound("https://example.com/login"))
    assert server.sent[0]["status"] == 302
    assert (b"location", b"https://example.com/login") in server.sent[0]["headers"]
    assert b"302 Found" in body_of(server.sent)


async def test_deny_is_a_bare_close_where_the_server_has_no_denials():
    server = Server()
    await server.websocket(extensions={}).deny(HTTPConflict())
    assert [event["type"] for event in server.sent] == ["websocket.close"]


@pytest.mark.parametrize("response", [403, None, HTTPConflict])
async def test_deny_takes_nothing_but_a_response(response):
    server = Server()
    with pytest.raises(TypeError, match="deny: response must be .* not "):
        await server.websocket().deny(response)
    assert server.sent == []


UNSENDABLE = [
    ("X-A", "split\r\nX-B: 1", "control character"),
    ("X-A", "\u20ac", "not latin-1"),
    ("Connection", "close", "hop-by-hop"),
    ("X A", "1", "no name"),
]


@pytest.mark.parametrize(("name", "value", "words"), UNSENDABLE)
async def test_deny_sends_no_header_that_cannot_be_sent(name, value, words):
    server = Server()
    websocket = server.websocket()
    response = Response(b"no", status=409, headerlist=[(name, value)])
    with pytest.raises(WSGIError, match=words):
        await websocket.deny(response)
    assert server.sent == []
    await websocket.deny(HTTPConflict())
    assert server.sent[0]["status"] == 409


async def test_deny_after_accept_is_an_error():
    websocket, _ = await opened()
    with pytest.raises(RuntimeError, match="deny: .* answered, .* open"):
        await websocket.deny(HTTPConflict())


# How a function ends.


async def test_a_function_that_returns_closes_its_websocket(caplog):
    async def func(websocket):
        await websocket.accept()

    sent = await serve(func)
    assert sent[1:] == [{"type": "websocket.close", "code": 1000, "reason": ""}]
    assert caplog.messages == []


async def returns_at_once(websocket):
    return None


async def test_a_function_that_returns_without_accept_is_a_denial_and_a_warning(caplog):
    sent = await serve(returns_at_once)
    assert sent[0]["status"] == 403
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "function tests.websocket.test_websocket.returns_at_once returned without accept():"
        " the client gets 403"
    )


async def test_a_function_that_denies_is_no_warning(caplog):
    async def func(websocket):
        await websocket.deny(HTTPConflict())

    sent = await serve(func)
    assert [event.get("status") for event in sent] == [409, None]
    assert caplog.messages == []


async def test_a_function_that_raises_is_logged_with_its_name(caplog):
    async def func(websocket):
        await websocket.accept()
        raise KeyError

    assert (await serve(func))[-1]["code"] == 1011
    assert caplog.messages == [
        "websocket consumer /ws (function tests.websocket.test_websocket.func) failed"
    ]


@pytest.mark.parametrize(
    ("method", "event", "code"),
    [
        ("receive_json", text("{"), 1007),
        ("receive_text", {"type": "websocket.receive", "bytes": b""}, 1003),
    ],
)
async def test_a_message_that_nobody_expects_closes_with_its_code(method, event, code, caplog):
    async def func(websocket):
        await websocket.accept()
        await getattr(websocket, method)()

    sent = await serve(func, event)
    assert sent[1:] == [{"type": "websocket.close", "code": code, "reason": ""}]
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert f"closes with {code}: The client sent" in record.getMessage()


async def test_an_invalid_message_before_accept_is_a_denial_400():
    async def func(websocket):
        raise InvalidMessage("of another kind")

    assert (await serve(func))[0]["status"] == 400


@pytest.mark.parametrize("receives", [True, False])
async def test_a_client_that_leaves_ends_a_function_quietly(receives, caplog, monkeypatch):
    monkeypatch.setattr(watcher, "INTERVAL", 0.001)
    cleaned = []

    async def func(websocket):
        try:
            await websocket.accept()
            if receives:
                await websocket.receive()
            await asyncio.Event().wait()
        finally:
            with pytest.raises(WebSocketDisconnect) as caught:
                await websocket.send("goodbye")
            await websocket.close()
            cleaned.append(caught.value.code)

    sent = await serve(func, left())
    assert [event["type"] for event in sent] == ["websocket.accept"]
    assert (cleaned, caplog.messages) == ([1001], [])


async def test_a_client_that_leaves_before_the_function_begins(caplog):
    # Before accept there is nothing to warn of. Nobody gets the denial.
    sent = await run(application(returns_at_once), websocket_scope(), left())
    assert [message.get("status") for message in sent] == [503, None]
    assert caplog.messages == []


async def test_a_client_that_leaves_during_the_iteration_is_no_close():
    async def func(websocket):
        await websocket.accept()
        async for message in websocket:
            await websocket.send(message)

    sent = await serve(func, text("a"), left())
    assert [event["type"] for event in sent] == ["websocket.accept", "websocket.send"]


async def test_a_function_that_has_closed_may_take_its_time(monkeypatch):
    monkeypatch.setattr(watcher, "INTERVAL", 0.001)
    done = []

    async def func(websocket):
        await websocket.accept()
        await websocket.close()
        await asyncio.sleep(0.05)
        done.append(True)

    await serve(func, left())
    assert done == [True]


async def gone(event):
    raise Gone


async def hears_by_iteration(websocket):
    await websocket.accept()
    assert [message async for message in websocket] == []


async def hears_by_receive(websocket):
    await websocket.accept()
    with pytest.raises(WebSocketDisconnect):
        await websocket.receive()


async def hears_by_wait_closed(websocket):
    await websocket.accept()
    await websocket.wait_closed()


async def hears_by_accept(websocket):
    websocket._send = gone
    with pytest.raises(WebSocketDisconnect):
        await websocket.accept()


async def hears_by_send(websocket):
    await websocket.accept()
    websocket._send = gone
    with pytest.raises(WebSocketDisconnect):
        await websocket.send("hello")


@pytest.mark.parametrize(
    "hears",
    [hears_by_iteration, hears_by_receive, hears_by_wait_closed, hears_by_accept, hears_by_send],
)
async def test_a_function_that_goes_on_is_cancelled(hears, caplog):
    ended = []

    async def func(websocket):
        await hears(websocket)
        # A task that does something for the client need not hear of it.
        beside = asyncio.ensure_future(asyncio.Event().wait())
        try:
            await beside
        finally:
            ended.append(beside.cancelled())

    await serve(func, left(), settings={"asgi.leave_timeout": "0.01"})
    assert ended == [True]
    name = "function tests.websocket.test_websocket.func"
    assert caplog.messages == [f"{name} goes on 0.01 s after its client has left: cancelled"]


async def test_a_function_that_has_denied_may_take_its_time(caplog):
    done = []

    async def func(websocket):
        await websocket.deny(HTTPConflict())
        await asyncio.sleep(0.05)
        done.append(True)

    await serve(func, left(), settings={"asgi.leave_timeout": "0.01"})
    assert (done, caplog.messages) == ([True], [])


async def test_a_function_that_relays_and_does_not_receive_ends_with_its_client(monkeypatch):
    monkeypatch.setattr(watcher, "INTERVAL", 0.001)
    ended = []

    async def func(websocket):
        await websocket.accept()
        async with websocket.relay("room"):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

    await serve(func, text("unread"), left())
    assert ended == [True]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_work_in_a_request_is_finished_when_the_client_leaves(monkeypatch):
    # The thread has begun by then.
    monkeypatch.setattr(watcher, "INTERVAL", 0.3)
    go_on, finished = threading.Event(), threading.Event()
    ended = []

    def work(request):
        assert go_on.wait(20)
        finished.set()

    async def func(websocket):
        await websocket.accept()
        try:
            await websocket.run_in_request(work)
        finally:
            ended.append(True)

    await serve(func, left(), permission=NO_PERMISSION_REQUIRED)
    assert (ended, finished.is_set()) == ([True], False)
    go_on.set()
    assert await asyncio.to_thread(finished.wait, 20)


# The directive and the decorator.


@websocket_config("/first")
@websocket_config("/second/{id}", max_connections=3)
async def decorated(websocket):
    await websocket.accept()
    await websocket.send_json(websocket.path_params)


async def test_the_decorator_is_found_by_a_scan_and_can_be_stacked():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.scan(__name__)
    app = config.make_asgi_app()
    assert (await run(app, websocket_scope("/first"), CONNECT))[1]["text"] == "{}"
    assert (await run(app, websocket_scope("/second/2"), CONNECT))[1]["text"] == '{"id":"2"}'


async def test_a_conflict_names_the_lines_of_the_functions():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.scan(__name__)
    config.add_websocket("/first", returns_at_once)
    config.add_websocket("/first", decorated)
    with pytest.raises(ConfigurationConflictError) as caught:
        config.commit()
    text = str(caught.value)
    assert 'config.add_websocket("/first", returns_at_once)' in text
    assert 'config.add_websocket("/first", decorated)' in text
    assert "websocket.py" not in text.replace("test_websocket.py", "")
    assert "consumers.py" not in text


def test_the_introspectable_has_the_function():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.add_websocket("/ws", f"{__name__}.decorated", origins="https://a.example", name="chat")
    config.commit()
    (entry,) = config.introspector.get_category("asgi consumers")
    found = entry["introspectable"]
    assert (found["path"], found["protocol"], found["callable"]) == ("/ws", "websocket", decorated)
    assert (found["origins"], found["name"]) == (("https://a.example",), "chat")
    assert found.title == (
        "websocket consumer /ws (function tests.websocket.test_websocket.decorated)"
    )


async def test_the_readme_s_function():
    readme = (Path(__file__).parent.parent.parent / "README.rst").read_text()
    section = readme.partition("\nA function of a websocket\n")[2]
    code = section.partition("code-block:: python\n")[2].partition("\n``@websocket_config")[0]
    module = ModuleType("chat")
    exec(textwrap.dedent(code), vars(module))
    sent = await serve(
        module.chat,
        text("Hello"),
        left(),
        path="/chat/{room}",
        permission="chat",
        scope=websocket_scope("/chat/a"),
    )
    assert sent[1]["text"] == "None in a: Hello"


class Echo:
    async def __call__(self, websocket):
        await decorated(websocket)

    async def method(self, websocket):
        await decorated(websocket)


class Returning:
    def __call__(self, websocket):
        return decorated(websocket)


@functools.wraps(decorated)
def wrapper(websocket):
    return decorated(websocket)


async def two(first, websocket):
    await decorated(websocket)


@pytest.mark.parametrize(
    "func",
    [
        Echo(),
        Echo().method,
        wrapper,
        functools.partial(two, None),
        f"{__name__}.decorated",
        Returning(),
    ],
    ids=["object", "method", "wrapped", "partial", "dotted name", "returns an awaitable"],
)
async def test_what_can_be_a_function(func):
    assert (await serve(func))[1]["text"] == "{}"


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (None, "must be an async function of one argument, or its dotted name, not None"),
        (list, "must be an async function of one argument, or its dotted name, not <class 'list"),
        (
            lambda websocket: decorated(websocket),
            r"must be async \(async def func\(websocket\)\), not <function <lambda>",
        ),
        (functools.partial(lambda websocket: decorated(websocket)), "must be async"),
        (print, "must be async"),
        (run, "must be a function of one argument, the websocket, not <function run"),
    ],
)
def test_what_cannot_be_a_function(func, message):
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    with pytest.raises(ConfigurationError, match=f"add_websocket: func {message}"):
        config.add_websocket("/ws", func)
