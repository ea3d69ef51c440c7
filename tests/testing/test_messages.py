"""What an application may send, in which order."""

import pytest

from pyramid_asgi_consumers.testing import WebSocketDenied, WebSocketDisconnect, messages
from tests.testing.applications import accept, denial, http_app, ok, websocket_app

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("size, sizes", [(0, [0]), (65536, [65536]), (65537, [65536, 1])])
def test_a_body_is_received_in_messages_of_which_the_last_has_no_more(size, sizes):
    received = list(messages.of_body(b"x" * size))
    assert [len(message["body"]) for message in received] == sizes
    assert [message["more_body"] for message in received] == [True] * (len(sizes) - 1) + [False]
    assert {message["type"] for message in received} == {"http.request"}


def expected_after(kind, *sent):
    expected = messages.first({"type": kind})
    for message in sent:
        messages.check(message, expected, kind)
        expected = messages.after(message, expected)
    return set(expected)


START = {"type": "http.response.start", "status": 200}
BODY = {"type": "http.response.body"}
MORE = {**BODY, "more_body": True}


def test_a_response_starts_once_and_has_bodies_until_one_has_no_more():
    assert expected_after("http") == {"http.response.start"}
    assert expected_after("http", START, MORE, MORE) == {"http.response.body"}
    assert expected_after("http", START, MORE, BODY) == set()


def test_a_websocket_is_accepted_or_closed_or_denied():
    first = {"websocket.accept", "websocket.close", "websocket.http.response.start"}
    assert expected_after("websocket") == first
    accept, close = {"type": "websocket.accept"}, {"type": "websocket.close"}
    send = {"type": "websocket.send", "text": ""}
    assert expected_after("websocket", accept, send) == {"websocket.send", "websocket.close"}
    assert expected_after("websocket", accept, close) == set()
    assert expected_after("websocket", close) == set()
    denial = [{**message, "type": f"websocket.{message['type']}"} for message in (START, MORE)]
    assert expected_after("websocket", *denial) == {"websocket.http.response.body"}


def test_nothing_is_expected_of_what_is_no_connection():
    assert messages.first({}) == {}


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("kind", ["http.response.body", "websocket.http.response.body"])
def test_a_body_without_more_ends_a_response(kind, ends):
    assert messages.ends_response({"type": kind, "more_body": not ends}) is ends
    assert not messages.ends_response({"type": "websocket.send", "more_body": not ends})


def test_what_comes_out_of_order_is_named_before_its_types():
    with pytest.raises(RuntimeError) as raised:
        messages.check({**BODY, "body": "text"}, {"a": {}, "b": {}}, "http /")
    assert str(raised.value) == "Expected a or b to be sent, not http.response.body"


@pytest.mark.parametrize(
    "message",
    [
        {"type": "websocket.send", "text": "x", "bytes": None},
        {"type": "websocket.send", "bytes": b""},
        {"type": "http.response.start", "status": 200, "headers": [[b"a", b"b"], (b"a", b"c")]},
        {"type": "http.response.start", "status": 200, "headers": None},
        {"type": "http.response.body"},
        {"type": "websocket.close", "code": 1000, "reason": None},
    ],
)
def test_what_servers_take_is_taken(message):
    messages.check(message, {message["type"]: {}}, "a consumer")


# Within a TestApp.


def test_a_response_without_an_end_is_an_error():
    async def consumer(scope, receive, send):
        await ok(send, more_body=True)

    with pytest.raises(RuntimeError, match="http /http: .* returned before the end of its resp"):
        http_app(consumer).get("/http")


@pytest.mark.parametrize(
    "message, said",
    [
        ({"text": b"x"}, "text of websocket.send must be str, not bytes: b'x'"),
        ({"bytes": "x"}, "bytes of websocket.send must be bytes, not str: 'x'"),
        ({"text": "x", "bytes": b"x"}, "text or bytes, one of the two, not text and bytes"),
        ({"text": None}, "text or bytes, one of the two, not none"),
    ],
)
def test_a_websockets_message_of_the_wrong_type_is_named(message, said):
    raised = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        try:
            await send({"type": "websocket.send", **message})
        except TypeError as error:
            raised.append(str(error))
            raise

    with pytest.raises(WebSocketDisconnect) as found:
        with websocket_app(consumer).websocket("/ws") as websocket:
            websocket.receive()
    assert isinstance(found.value.__cause__, TypeError)
    [error] = raised
    assert error.startswith("websocket /ws: ") and said in error


@pytest.mark.parametrize(
    "start, said",
    [
        ({"status": "200"}, "status of http.response.start must be int, not str: '200'"),
        ({}, "status of http.response.start must be int, not NoneType: None"),
        ({"status": 200, "headers": [("a", b"b")]}, r"pairs of bytes, .* not \('a', b'b'\)"),
        ({"status": 200, "headers": [b"ab"]}, "pairs of bytes, .* not b'ab'"),
        ({"status": 200, "headers": [(b"a", b"b", b"c")]}, "pairs of bytes"),
    ],
)
def test_a_response_of_the_wrong_types_is_named(start, said):
    async def consumer(scope, receive, send):
        await send({"type": "http.response.start", **start})

    with pytest.raises(TypeError, match=f"http /http: .*{said}"):
        http_app(consumer).get("/http")


def test_a_denials_body_of_the_wrong_type_is_named():
    async def consumer(scope, receive, send):
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": "text"})

    with pytest.raises(WebSocketDenied) as found:
        websocket_app(consumer).websocket("/ws").__enter__()
    assert str(found.value.__cause__) == (
        "websocket /ws: body of websocket.http.response.body must be bytes, not str: 'text'"
    )


def test_messages_in_the_wrong_order_are_an_error():
    async def consumer(scope, receive, send):
        await send({"type": "http.response.body"})

    with pytest.raises(
        RuntimeError, match="Expected http.response.start .* not http.response.body"
    ):
        http_app(consumer).get("/http")

    async def long_consumer(scope, receive, send):
        await ok(send)
        await send({"type": "http.response.body"})

    with pytest.raises(RuntimeError, match="Expected nothing to be sent"):
        http_app(long_consumer).get("/http")


def test_a_consumer_that_sends_before_it_accepts():
    async def consumer(scope, receive, send):
        await receive()
        await send({"type": "websocket.send", "text": "x"})

    denied = denial(websocket_app(consumer), "/ws")
    assert "Expected websocket.accept or" in str(denied.__cause__)
