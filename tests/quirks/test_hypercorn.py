"""What is done differently for Hypercorn."""

import asyncio
import contextlib
from types import MethodType

import pytest
from hypercorn.protocol.ws_stream import ASGIWebsocketState

from pyramid_asgi_consumers.quirks import hypercorn
from tests.support import clients
from tests.support.sent import FILLER
from tests.support.servers import running, wait_until


class Stream:
    """What Hypercorn serves a websocket with."""

    __module__ = "hypercorn.protocol.ws_stream"

    closed = False

    def __init__(self, put):
        self.app_put = put

    async def app_send(self, message):
        return message


@pytest.mark.parametrize("room", [1, 0], ids=["full", "without a bound"])
async def test_that_the_client_has_left_waits_for_no_room_and_ends_what_sends(room):
    queue = asyncio.Queue(room)
    stream = Stream(queue.put)
    # Of two applications of ours, one is mounted in the other.
    receive, send = hypercorn.SERVER.websocket(queue.get, stream.app_send)
    hypercorn.SERVER.websocket(queue.get, stream.app_send)
    await stream.app_put({"type": "websocket.receive"})
    assert await send({"type": "websocket.send"}) == {"type": "websocket.send"}
    stream.closed = True
    await stream.app_put({"type": "websocket.disconnect"})
    with pytest.raises(OSError, match="has left"):
        await send({"type": "websocket.send"})
    assert await send({"type": "websocket.close"}) == {"type": "websocket.close"}
    received = [(await receive())["type"] for _ in range(2)]
    assert received == ["websocket.receive", "websocket.disconnect"]


async def test_who_waits_for_room_waits_no_more_when_the_websocket_has_ended():
    queue = asyncio.Queue(1)
    stream = Stream(queue.put)
    hypercorn.SERVER.websocket(queue.get, stream.app_send)
    await stream.app_put({"type": "websocket.receive", "text": "1"})
    reading = asyncio.create_task(stream.app_put({"type": "websocket.receive", "text": "2"}))
    await asyncio.sleep(0)
    # Nobody receives.
    await stream.app_put({"type": "websocket.disconnect"})
    await asyncio.wait_for(reading, 20)


async def test_who_puts_into_something_else_waits_as_ever():
    put = []

    async def append(event):
        put.append(event)

    stream = Stream(append)
    assert hypercorn.SERVER.websocket(None, print) == (None, print)
    hypercorn.SERVER.websocket(None, stream.app_send)
    await stream.app_put({"type": "websocket.disconnect"})
    assert put == [{"type": "websocket.disconnect"}]


def test_a_flood_ends_whatever_its_client_has_sent_before_it_left(tmp_path):
    with running("hypercorn", tmp_path, app="tests.apps.leavingapp:app") as server:
        for kind in ("flood", "plain_flood"):
            with clients.raw(server) as connection:
                lines = (f"GET /{kind}/{kind} HTTP/1.1", "Host: x", *clients.UPGRADE, "", "")
                connection.sendall("\r\n".join(lines).encode())
                clients.read_until(connection, FILLER[:16])
                connection.sendall(b"\x81\x82\0\0\0\0hi" * 300)
                clients.leave(connection)

            def has_ended(name=f"{kind} ended"):
                return name in clients.get(server, "/state").json

            wait_until(has_ended, f"the end of {kind}", server)


def test_a_client_that_floods_until_it_is_closed_leaves_nothing_behind(tmp_path):
    with running("hypercorn", tmp_path, app="tests.apps.limitsapp:app") as server:

        def tasks():
            # A connection that is kept alive has tasks for some seconds more.
            return clients.get(server, "/tasks", headers={"Connection": "close"}).json

        # Those of the page are among them.
        before = tasks()
        for _ in range(5):
            with clients.raw(server) as connection:
                lines = ("GET /function HTTP/1.1", "Host: x", *clients.UPGRADE, "", "")
                connection.sendall("\r\n".join(lines).encode())
                clients.read_until(connection, b"\r\n\r\n")
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"\x81\x82\0\0\0\0hi" * 300)
                    clients.read_until(connection, (1008).to_bytes(2, "big"))
        wait_until(lambda: tasks() <= before, "the end of what serves them", server)


async def test_hypercorn_s_stream_is_looked_for_where_it_is():
    stream = type("WSStream", (), {"__module__": "hypercorn.protocol.ws_stream"})()
    stream.closed = True

    async def by_hypercorn(send):
        # Middleware has wrapped it.
        return hypercorn.Hypercorn().has_left(print)

    bound = MethodType(print, stream)
    assert hypercorn.Hypercorn().has_left(bound)
    assert await asyncio.create_task(by_hypercorn(bound))
    assert not hypercorn.Hypercorn().has_left(print)
    hypercorn.Hypercorn().refused(print)
    stream.state = ASGIWebsocketState.CONNECTED
    hypercorn.Hypercorn().refused(bound)
    assert stream.state is ASGIWebsocketState.HANDSHAKE
