"""What uvloop raises for what is written to a client that has left, and what becomes of it."""

import asyncio
import socket

import pytest
import uvloop

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.connection.endpoint import Endpoint, Limit
from pyramid_asgi_consumers.handshake.origins import OriginRule
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.refusal import refuse
from pyramid_asgi_consumers.wsgi.bridge import WSGIBridge
from tests.support.asgi import CONNECT, http_scope, websocket_scope


@pytest.fixture
def error():
    """What a transport of uvloop raises once it is closed."""

    async def write():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=own)
        transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError) as raised:
            transport.write(b"x")
        return raised.value

    own, other = socket.socketpair()
    loop = uvloop.new_event_loop()
    with other:
        error = loop.run_until_complete(write())
        loop.close()
    return error


class Server:
    """The server's side of a connection whose client leaves after ``stays`` messages."""

    def __init__(self, stays, error):
        self.stays = stays
        self.error = error
        self.events = asyncio.Queue()
        self.events.put_nowait(CONNECT)

    async def receive(self):
        return await self.events.get()

    async def send(self, message):
        if not self.stays:
            raise self.error
        self.stays -= 1


def test_it_is_told_from_other_errors(error):
    assert quirks.is_of_a_closed_transport(error)
    for other in (RuntimeError(), RuntimeError("Unexpected message"), OSError(str(error))):
        assert not quirks.is_of_a_closed_transport(other)


def endpoint(protocol, app):
    consumer = Consumer("/x", protocol, app, "app")
    return Endpoint(consumer, OriginRule(), Limit(None), None, None)


@pytest.mark.parametrize("stays", [0, 1, 2])
async def test_a_websocket_ends_quietly(stays, error, caplog):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            await send({"type": "websocket.send", "text": "x"})

    server = Server(stays, error)
    await endpoint("websocket", app).websocket(websocket_scope(), server.receive, server.send)
    assert caplog.messages == []


@pytest.mark.parametrize("stays", [0, 1, 2])
async def test_an_http_consumer_ends_quietly(stays, error, caplog):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    server = Server(stays, error)
    await endpoint("http", app).http(http_scope(), server.receive, server.send)
    assert caplog.messages == []


@pytest.mark.parametrize("stays", [0, 1, 2])
async def test_a_view_ends_quietly(stays, error, caplog):
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"x"] * 3

    server = Server(stays, error)
    await WSGIBridge(app)(http_scope(), server.receive, server.send)
    assert caplog.messages == []


async def test_a_refusal_ends_quietly(error):
    await refuse(http_scope(), Server(0, error).send, 400)
    other = RuntimeError("Unexpected message")
    with pytest.raises(RuntimeError, match="Unexpected message"):
        await refuse(http_scope(), Server(0, other).send, 400)


async def test_a_consumer_s_own_connection_is_not_its_client(error, caplog):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        raise error

    server = Server(2, error)
    await endpoint("websocket", app).websocket(websocket_scope(), server.receive, server.send)
    assert "app) failed" in caplog.text
