"""What Hypercorn needs to stop in good order. ``tests/servers/test_pserve.py`` stops it itself."""

import asyncio

import pytest

from pyramid_asgi_consumers.quirks.hypercorn_stopping import ClosingWebsockets, cancel_others
from tests.support.servers import DEADLINE


async def test_a_websocket_that_ends_while_others_are_closed():
    goes = asyncio.Event()

    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        await goes.wait()

    queue = asyncio.Queue()
    served = ClosingWebsockets(app, {})
    consumer = asyncio.create_task(served({"type": "websocket"}, queue.get, queue.put))
    assert await queue.get() == {"type": "websocket.accept"}
    goes.set()
    await served.close()
    await consumer
    assert queue.empty()


async def test_a_websocket_is_closed_once():
    async def app(scope, receive, send):
        for kind in ("accept", "send", "close"):
            await send({"type": f"websocket.{kind}"})
        closed.set()
        await asyncio.Event().wait()

    closed, queue = asyncio.Event(), asyncio.Queue()
    served = ClosingWebsockets(app, {})
    consumer = asyncio.create_task(served({"type": "websocket"}, queue.get, queue.put))
    await closed.wait()
    await served.close()
    consumer.cancel()
    await asyncio.wait([consumer])
    assert [queue.get_nowait()["type"] for _ in range(queue.qsize())] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]


async def test_a_websocket_that_was_closed_sends_no_more():
    async def app(scope, receive, send):
        await send({"type": "websocket.accept"})
        await receive()
        with pytest.raises(OSError, match="The server stops"):
            await send({"type": "websocket.send", "text": "late"})

    to_app, queue = asyncio.Queue(), asyncio.Queue()
    served = ClosingWebsockets(app, {})
    consumer = asyncio.create_task(served({"type": "websocket"}, to_app.get, queue.put))
    assert await queue.get() == {"type": "websocket.accept"}
    await served.close()
    assert await queue.get() == {"type": "websocket.close", "code": 1012, "reason": ""}
    to_app.put_nowait({"type": "websocket.disconnect", "code": 1012})
    await asyncio.wait_for(consumer, DEADLINE)
    assert queue.empty()


@pytest.mark.parametrize("kind", ["accept", "close", "http.response.start"])
async def test_a_handshake_that_is_answered_after_all_were_closed_is_broken_off(kind):
    async def app(scope, receive, send):
        with pytest.raises(OSError, match="The server stops"):
            await send({"type": f"websocket.{kind}"})

    served = ClosingWebsockets(app, {})
    await served.close()
    await served({"type": "websocket"}, None, None)


async def test_what_is_still_open_is_cancelled_until_it_ends():
    cancellations = []

    async def connection():
        # To close it waits, until it is cancelled again.
        for _ in range(2):
            with pytest.raises(asyncio.CancelledError):
                await asyncio.Event().wait()
            cancellations.append(True)

    before = asyncio.all_tasks()
    task = asyncio.create_task(connection())
    await asyncio.sleep(0)
    await cancel_others(before)
    assert task.done() and len(cancellations) == 2
