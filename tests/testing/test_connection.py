"""How the two sides of a websocket leave."""

import asyncio

import pytest

from pyramid_asgi_consumers.testing import WebSocketDisconnect, timeouts
from pyramid_asgi_consumers.testing.connection import Connection
from tests.testing.applications import accept, websocket_app

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def run(thread, coroutine):
    """What ``coroutine`` returns, on the loop of ``thread``."""
    return asyncio.run_coroutine_threadsafe(coroutine, thread.loop).result(20)


def test_what_waits_is_received_before_what_is_delivered(thread):
    connection = Connection(thread, {"type": "websocket", "path": "/"}, [{"type": "first"}])
    connection.deliver({"type": "second"})

    async def receive():
        return [(await connection.receive())["type"] for _ in range(2)]

    assert run(thread, receive()) == ["first", "second"]


def test_the_one_that_closes_first_says_with_which_code(thread):
    connection = Connection(thread, {"type": "websocket", "path": "/"}, ())
    connection.leave(4001, "test")

    async def close():
        await connection.send({"type": "websocket.close", "code": 4002})
        return await connection.receive()

    farewell = {"type": "websocket.disconnect", "code": 4001, "reason": "test"}
    assert run(thread, close()) == farewell
    assert connection.closed == (4001, "test")
    assert list(connection.sent) == [{"type": "websocket.close", "code": 4002}]


def test_a_client_that_has_left_is_sent_nothing_once_that_was_received(thread):
    connection = Connection(thread, {"type": "websocket", "path": "/"}, ())
    connection.leave(1000, "")

    async def send():
        assert (await connection.receive())["type"] == "websocket.disconnect"
        with pytest.raises(OSError, match="The client has left"):
            await connection.send({"type": "websocket.accept"})

    run(thread, send())
    assert not connection.sent


def test_a_response_that_has_ended_is_all_of_an_http_connection(thread):
    connection = Connection(thread, {"type": "http", "path": "/a"}, ())

    async def respond():
        await connection.send({"type": "http.response.start", "status": 200})
        with pytest.raises(RuntimeError, match="http /a: the application returned before the end"):
            connection.check_end()
        await connection.send({"type": "http.response.body"})
        connection.check_end()
        return await connection.receive()

    assert run(thread, respond()) == {"type": "http.disconnect"}


# Within a TestApp.


def test_the_consumer_closes():
    async def consumer(scope, receive, send):
        await accept(receive, send)
        await send({"type": "websocket.send", "text": "bye"})
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        assert await receive() == {
            "type": "websocket.disconnect",
            "code": 4001,
            "reason": "enough",
        }

    with websocket_app(consumer).websocket("/ws") as websocket:
        assert websocket.receive() == "bye"
        with pytest.raises(WebSocketDisconnect, match="enough"):
            websocket.receive()
        assert (websocket.close_code, websocket.close_reason) == (4001, "enough")
        with pytest.raises(RuntimeError, match="closed with the code 4001"):
            websocket.send("hello")
        with pytest.raises(WebSocketDisconnect):
            websocket.receive()


def test_the_test_closes():
    got = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        got.append(message)
        got.append(await receive())
        with pytest.raises(OSError, match="has left"):
            await send({"type": "websocket.send", "text": "too late"})

    with websocket_app(consumer).websocket("/ws") as websocket:
        websocket.send("last words")
        websocket.close(4002, "done")
        assert got == [{"type": "websocket.disconnect", "code": 4002, "reason": "done"}] * 2
        websocket.close()
        assert (websocket.close_code, websocket.close_reason) == (4002, "done")
        assert websocket.receive() == "last words"
        with pytest.raises(WebSocketDisconnect, match="4002") as disconnected:
            websocket.receive()
        assert disconnected.value.__cause__ is None


def test_a_consumer_finishes_with_what_the_test_sent_before_it_left(monkeypatch):
    monkeypatch.setattr(timeouts, "GRACE", 2)
    finished = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        while (message := await receive())["type"] == "websocket.receive":
            await asyncio.sleep(1.2)
            await send({**message, "type": "websocket.send"})
            finished.append(message["text"])

    with websocket_app(consumer).websocket("/ws") as websocket:
        websocket.send("a")
        websocket.send("b")
    assert finished == ["a", "b"]


def test_a_consumer_that_sends_to_a_client_that_has_left_gets_an_os_error(caplog):
    errors = []

    async def consumer(scope, receive, send):
        await accept(receive, send)
        try:
            while True:
                await send({"type": "websocket.send", "bytes": b"x"})
                await asyncio.sleep(0)
        except OSError as error:
            errors.append(error)
            raise

    with websocket_app(consumer).websocket("/ws") as websocket:
        assert websocket.receive() == b"x"
    assert len(errors) == 1
    assert caplog.records == []
