"""How a connection to a consumer ends."""

import builtins
from functools import partial
from importlib import import_module

import pytest
from pyramid.httpexceptions import HTTPConflict
from starlette.middleware.base import BaseHTTPMiddleware

from pyramid_asgi_consumers.connection.endpoint import Limit
from pyramid_asgi_consumers.exceptions import InvalidJSON, SubscriptionOverflow, WebSocketDisconnect
from tests.support.asgi import CONNECT, SCOPES, body_of, http_scope, run, websocket_scope
from tests.support.connections import BODY, START, accept_and_send, endpoint
from tests.support.websockets import Gone


class Server:
    """A server's side of a connection whose client leaves after ``stays`` messages."""

    def __init__(self, stays):
        self.stays = stays
        self.sent = []

    async def receive(self):
        """Never called."""

    async def send(self, message):
        if len(self.sent) == self.stays:
            raise Gone
        self.sent.append(message)


@pytest.mark.parametrize("stays", [0, 1, 3])
async def test_a_client_that_is_gone_ends_a_websocket_quietly(stays, caplog):
    server = Server(stays)
    await endpoint(accept_and_send).websocket(websocket_scope(), server.receive, server.send)
    assert (len(server.sent), caplog.messages) == (stays, [])


class Wrapper:
    """Middleware whose ``send`` is an object, a method or a function that returns a coroutine."""

    def __init__(self, send):
        self.send = send

    async def __call__(self, message):
        await self.send(message)

    async def method(self, message):
        await self.send(message)

    def function(self, message):
        return self.send(message)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda send: partial(Wrapper.method, Wrapper(send)),
        lambda send: Wrapper(send),
        lambda send: Wrapper(send).method,
        lambda send: Wrapper(send).function,
        lambda send: Wrapper(Wrapper(Wrapper(send).function)).method,
    ],
    ids=["partial", "object", "method", "function", "several"],
)
@pytest.mark.parametrize("protocol", ["websocket", "http"])
async def test_a_client_that_is_gone_is_known_whatever_wraps_send(wrapped, protocol, caplog):
    async def streaming(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    server = Server(3)
    if protocol == "websocket":
        serve, scope = endpoint(accept_and_send).websocket, websocket_scope()
    else:
        serve, scope = endpoint(streaming, "http").http, http_scope()
    await serve(scope, server.receive, wrapped(server.send))
    assert (len(server.sent), caplog.messages) == (3, [])


async def test_middleware_gets_a_response_for_a_client_that_left_before_it(caplog):
    async def waits(scope, receive, send):
        while (await receive())["type"] != "http.disconnect":
            pass

    async def dispatch(request, call_next):
        return await call_next(request)

    events = [{"type": "http.request"}]
    sent = []

    async def receive():
        return events.pop() if events else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    around = BaseHTTPMiddleware(endpoint(waits, "http").http, dispatch)
    await around(http_scope(), receive, send)
    assert (sent[0]["status"], caplog.messages) == (400, [])


async def test_what_send_raises_before_it_waits_counts_as_well(caplog):
    def send(message):
        raise Gone

    await endpoint(accept_and_send).websocket(websocket_scope(), Server(0).receive, send)
    assert caplog.messages == []


@pytest.mark.parametrize(("accepts", "last"), [(False, None), (True, 1011)])
async def test_an_oserror_of_the_consumer_s_own_is_a_failure(accepts, last, caplog):
    async def app(scope, receive, send):
        await receive()
        if accepts:
            await send({"type": "websocket.accept"})
        raise ConnectionRefusedError("no database")

    sent = []

    async def send(message):
        sent.append(message)

    await endpoint(app).websocket(websocket_scope(), Server(0).receive, send)
    assert caplog.messages == ["websocket consumer /x (app) failed"]
    assert sent[-1].get("code") == last
    assert accepts or sent[0]["status"] == 500


class Picky:
    """A server that refuses messages as soon as one of ``refuses`` is among them."""

    def __init__(self, *refuses):
        self.refuses = list(refuses)
        self.sent = []

    async def receive(self):
        """Never called."""

    async def send(self, message):
        if message["type"] in self.refuses:
            self.refuses.remove(message["type"])
            raise RuntimeError(f"Not {message['type']} now")
        self.sent.append(message)

    def sent_types(self):
        return [message["type"] for message in self.sent]


def sends(*messages):
    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    return app


DENIAL = [START["type"], BODY["type"]]


@pytest.mark.parametrize(
    ("messages", "refused"),
    [
        ([{"type": "websocket.accept"}], ["websocket.accept"]),
        ([{"type": "websocket.acept"}], ["websocket.acept"]),
        ([{"type": "websocket.close"}], ["websocket.close"]),
        ([BODY], [BODY["type"]]),
        ([START, BODY], [START["type"]]),
        ([START], []),
    ],
)
async def test_what_a_server_refuses_before_the_accept_is_no_answer(messages, refused, caplog):
    server = Picky(*refused)
    await endpoint(sends(*messages)).websocket(websocket_scope(), server.receive, server.send)
    assert (server.sent_types(), server.sent[0]["status"]) == (DENIAL, 500)
    assert caplog.messages == ["websocket consumer /x (app) failed"]


async def test_a_denial_is_sent_with_its_body():
    server = Picky()
    app = sends(START, {**BODY, "more_body": True}, BODY)
    await endpoint(app).websocket(websocket_scope(), server.receive, server.send)
    assert server.sent == [START, {**BODY, "more_body": True}, BODY]


async def test_a_denial_whose_start_was_taken_is_the_only_one(caplog):
    server = Picky(BODY["type"])
    app = sends(START, BODY)
    await endpoint(app).websocket(websocket_scope(), server.receive, server.send)
    assert (server.sent, len(caplog.messages)) == ([START], 1)


@pytest.mark.parametrize("kind", ["websocket.snd", "websocket.close", "websocket.accept"])
async def test_what_a_server_refuses_of_an_open_websocket_closes_it(kind, caplog):
    server = Picky()
    refused = {"type": kind, "code": 1005}

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        server.refuses.append(kind)
        await send(refused)

    await endpoint(app).websocket(websocket_scope(), server.receive, server.send)
    assert server.sent_types() == ["websocket.accept", "websocket.close"]
    assert server.sent[-1]["code"] == 1011


HTTP_START = {"type": "http.response.start", "status": 200, "headers": []}
HTTP_BODY = {"type": "http.response.body", "body": b"some"}


@pytest.mark.parametrize(
    ("messages", "refused"),
    [([HTTP_START, HTTP_BODY], HTTP_START["type"]), ([HTTP_BODY], HTTP_BODY["type"])],
)
async def test_a_response_that_a_server_refuses_has_not_begun(messages, refused, caplog):
    server = Picky(refused)
    await endpoint(sends(*messages), "http").http(http_scope(), server.receive, server.send)
    assert [message.get("status") for message in server.sent] == [500, None]
    assert caplog.messages == ["GET '/' failed"]


@pytest.mark.parametrize("messages", [[HTTP_START, HTTP_START], [HTTP_START, HTTP_BODY]])
async def test_a_response_of_which_a_server_refuses_the_rest_is_broken_off(messages):
    server = Picky()

    async def app(scope, receive, send):
        await send(messages[0])
        server.refuses.append(messages[1]["type"])
        await send(messages[1])

    with pytest.raises(RuntimeError, match="Not http.response"):
        await endpoint(app, "http").http(http_scope(), server.receive, server.send)
    assert server.sent == [HTTP_START]


async def test_a_consumer_that_closes_by_itself_has_the_last_word():
    async def app(scope, receive, send):
        await send({"type": "websocket.close", "code": 4001})

    assert await run_endpoint(app) == [{"type": "websocket.close", "code": 4001}]


async def test_a_disconnect_that_is_not_caught_ends_a_websocket_quietly(caplog):
    async def app(scope, receive, send):
        raise WebSocketDisconnect(1001)

    # Nobody gets this, but servers log what is not answered.
    assert [message.get("status") for message in await run_endpoint(app)] == [503, None]
    assert caplog.messages == []


# Python 3.10 has none of its own, but pytest needs the backport there.
ExceptionGroup = (
    getattr(builtins, "ExceptionGroup", None) or import_module("exceptiongroup").ExceptionGroup
)


def group(*exceptions):
    """What a task group raises."""
    return ExceptionGroup("unhandled errors", exceptions)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (group(WebSocketDisconnect()), None),
        (group(WebSocketDisconnect(), WebSocketDisconnect()), None),
        (group(group(HTTPConflict())), 4409),
        (group(InvalidJSON("not JSON")), 1007),
        (group(KeyError()), 1011),
        (group(WebSocketDisconnect(), KeyError()), 1011),
    ],
)
async def test_what_a_task_group_wraps_counts(error, code, caplog):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        raise error

    assert [event.get("code") for event in await run_endpoint(app)] == [None, code][
        : 1 + bool(code)
    ]
    assert ("failed" in caplog.text) is (code == 1011)


@pytest.mark.parametrize("accepts, last", [(True, 1013), (False, 503)])
async def test_a_consumer_that_is_too_slow_is_asked_to_try_again_later(accepts, last, caplog):
    async def app(scope, receive, send):
        await receive()
        if accepts:
            await send({"type": "websocket.accept"})
        raise SubscriptionOverflow(("room",), 5)

    events = await run_endpoint(app)
    assert last in [event.get("code") or event.get("status") for event in events]
    assert "closes with 1013: More than 5 events waited for a subscriber of 'room'" in caplog.text


@pytest.mark.parametrize("error", [OSError, RuntimeError, AttributeError])
async def test_a_client_that_was_faster_to_close_is_no_error(error, caplog):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})

    async def send(message):
        if message["type"] == "websocket.close":
            raise error

    await endpoint(app).websocket(websocket_scope(), Server(0).receive, send)
    assert caplog.messages == []


async def test_a_denial_to_a_client_that_is_gone_is_no_error(caplog):
    async def app(scope, receive, send):
        return

    server = Server(0)
    await endpoint(app).websocket(websocket_scope(), server.receive, server.send)
    assert caplog.messages == []


async def run_endpoint(app, max_connections=None, process=None):
    served = endpoint(app, "websocket", max_connections, process)
    return await run(served.websocket, websocket_scope(), CONNECT)


@pytest.mark.parametrize("ends", [None, ValueError(), HTTPConflict(), WebSocketDisconnect()])
async def test_no_slot_is_lost_however_a_consumer_ends(ends, caplog):
    async def app(scope, receive, send):
        if ends is not None:
            raise ends

    process = Limit(1)
    served = endpoint(app, max_connections=1, process=process)
    await run(served.websocket, websocket_scope(), CONNECT)
    assert (served.limit.open, process.open) == (0, 0)


async def test_the_limit_is_looked_at_before_the_origin():
    process = Limit(1)
    foreign = websocket_scope(headers=[(b"origin", b"https://evil.test")])
    served = endpoint(accept_and_send, process=process)
    assert (await run(served.websocket, foreign, CONNECT))[0]["status"] == 403
    with process:
        assert (await run(served.websocket, foreign, CONNECT))[0]["status"] == 503


# http


async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})


@pytest.mark.parametrize("stays", [0, 1, 3])
async def test_an_http_client_that_is_gone_is_no_error(stays, caplog):
    server = Server(stays)
    await endpoint(stream, "http").http(http_scope(), server.receive, server.send)
    assert (len(server.sent), caplog.messages) == (stays, [])


async def test_an_http_consumer_that_fails_after_its_start_is_broken_off():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ConnectionRefusedError("no database")

    with pytest.raises(ConnectionRefusedError):
        await run(endpoint(app, "http").http, http_scope())


async def test_an_http_consumer_that_fails_after_its_end_is_logged(caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})
        raise ValueError

    assert body_of(await run(endpoint(app, "http").http, http_scope())) == b"whole"
    assert caplog.messages == ["http consumer /x (app) failed after its response"]


async def test_an_http_exception_is_the_response_until_one_has_started():
    async def early(scope, receive, send):
        raise HTTPConflict

    async def late(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise HTTPConflict

    assert (await run(endpoint(early, "http").http, http_scope()))[0]["status"] == 409
    with pytest.raises(HTTPConflict):
        await run(endpoint(late, "http").http, http_scope())


async def test_an_http_consumer_has_its_limit():
    process = Limit(1)
    with process:
        sent = await run(endpoint(stream, "http", process=process).http, http_scope())
    assert (sent[0]["status"], body_of(sent)) == (503, b"503 Service Unavailable\n")


async def test_messages_of_extensions_pass():
    messages = [
        {"type": "http.response.start", "status": 200, "headers": []},
        {"type": "http.response.pathsend", "path": "/file"},
    ]

    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    assert await run(endpoint(app, "http").http, http_scope()) == messages


# A response that is raised.


def unsendable(name, value):
    error = HTTPConflict()
    error.headers[name] = value
    return error


class Pageless(HTTPConflict):
    """Its page cannot be made."""

    def prepare(self, environ):
        raise ValueError("no page")


RAISED = {
    "control character": unsendable("X-A", "split\x00"),
    "not latin-1": unsendable("X-A", "\u20ac"),
    "hop-by-hop": unsendable("Connection", "close"),
    "no page": Pageless(),
}


@pytest.mark.parametrize("error", RAISED.values(), ids=RAISED)
@pytest.mark.parametrize("protocol", ["websocket", "http"])
async def test_a_raised_response_that_cannot_be_sent_is_a_failure(protocol, error, caplog):
    async def app(scope, receive, send):
        raise error

    scope = SCOPES[protocol]()
    sent = await run(getattr(endpoint(app, protocol), protocol), scope, CONNECT)
    assert (sent[0]["status"], len(sent)) == (500, 2)
    (message,) = caplog.messages
    assert message == f"{protocol} consumer /x (app) raised a response that cannot be sent"


async def test_a_response_raised_in_an_open_websocket_needs_no_headers(caplog):
    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        raise RAISED["not latin-1"]

    sent = await run(endpoint(app).websocket, websocket_scope(), CONNECT)
    assert sent[-1] == {"type": "websocket.close", "code": 4409, "reason": ""}
    assert caplog.messages == []


@pytest.mark.parametrize("body", ["text", None])
async def test_a_body_that_is_no_bytes_is_the_consumer_s_failure(body, caplog):
    app = sends({"type": "http.response.body", "body": body})
    assert (await run(endpoint(app, "http").http, http_scope()))[0]["status"] == 500
    assert f"http consumer /x (app) must send bytes as body, not {type(body).__name__}" in str(
        caplog.records[0].exc_info[1]
    )
