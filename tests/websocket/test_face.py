"""What can be done with a ``WebSocket``, and what it tells."""

import asyncio
import functools
import json

import pytest
from pyramid.httpexceptions import HTTPConflict, HTTPFound
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import WebSocketDisconnect
from pyramid_asgi_consumers.exceptions import InvalidJSON, WrongMessageKind, WSGIError
from tests.support.asgi import body_of, websocket_scope
from tests.support.events import text
from tests.support.websockets import Gone, Server, left, opened, serve

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
