"""What is relayed on a server whose ``send`` is known goes out without a task for each client."""

import asyncio
import contextlib
import json

import pytest

from pyramid_asgi_consumers.channels import channels_of
from tests.support.asgi import CONNECT, websocket_scope
from tests.support.staying import Policy
from tests.support.wsgi import wait_until


class Served:
    """A client of Uvicorn's."""

    __module__ = "uvicorn.protocols.websockets.websockets_sansio_impl"

    def __init__(self, app):
        self.disconnected = False
        self.writable = asyncio.Event()
        self.writable.set()
        self.error = None
        self.sent = []
        #: The task that has sent each of them.
        self.senders = []
        self._events = asyncio.Queue()
        self._events.put_nowait(CONNECT)
        self.task = asyncio.create_task(app(websocket_scope("/ws"), self._events.get, self.send))

    async def send(self, message):
        await self.writable.wait()
        if self.error is not None:
            raise self.error
        self.senders.append(asyncio.current_task())
        self.sent.append(message)

    def leave(self):
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1001})

    @property
    def got(self):
        """What it was sent, but for the handshake."""
        return [message.get("text", message.get("bytes")) for message in self.sent[1:]]


def relaying(**options):
    async def func(websocket):
        await websocket.accept()
        async with websocket.relay("news", **options):
            await websocket.wait_closed()

    return func


@pytest.fixture
def served(config):
    @contextlib.asynccontextmanager
    async def served(func, **declared):
        config.add_websocket("/ws", func, **declared)
        app = config.make_asgi_app()
        client = Served(app)
        await wait_until(lambda: client.sent and not is_entering(app))
        try:
            yield client, channels_of(app.registry)
        finally:
            client.leave()
            await asyncio.wait_for(asyncio.wait([client.task]), 20)

    def is_entering(app):
        return not channels_of(app.registry).backend._channels.get("news")

    return served


async def test_an_event_is_sent_by_who_publishes_it(served):
    async with served(relaying()) as (client, channels):
        await channels.publish("news", {"a": 1})
        await channels.publish("news", b"bytes")
        assert client.got == ['{"a":1}', b"bytes"]
        assert client.senders[1:] == [asyncio.current_task()] * 2


async def test_envelopes_are_sent_by_who_publishes_them(served):
    async with served(relaying(envelope=True)) as (client, channels):
        await wait_until(lambda: client.got)
        event_id = await channels.publish("news", 1)
        assert json.loads(client.got[1]) == {"channel": "news", "id": event_id, "data": 1}
        assert client.senders[2] is asyncio.current_task()


async def test_what_a_slow_client_waits_for_stays_in_its_order(served):
    async with served(relaying()) as (client, channels):
        for number in range(30):
            if number % 3:
                client.writable.set()
            else:
                client.writable.clear()
            await channels.publish("news", number)
        client.writable.set()
        await wait_until(lambda: len(client.got) == 30)
        assert client.got == [str(number) for number in range(30)]
        assert len(set(client.senders[1:])) == 2


async def test_a_slow_client_holds_nobody_up(served):
    async with served(relaying()) as (client, channels), channels.subscribe("news") as other:
        client.writable.clear()
        for number in range(2):
            await asyncio.wait_for(channels.publish("news", number), 20)
        assert [(await other.__anext__()).data for _ in range(2)] == [0, 1]
        assert client.got == []
        client.writable.set()
        await wait_until(lambda: client.got == ["0", "1"])


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("closed")])
async def test_that_the_client_has_left_is_not_the_publisher_s(served, error, caplog):
    ended = []

    async def func(websocket):
        try:
            await relaying()(websocket)
        finally:
            ended.append(True)

    async with served(func) as (client, channels):
        client.error = error
        await channels.publish("news", 1)
        await wait_until(lambda: ended)
    assert client.got == []
    assert "Traceback" not in caplog.text


async def test_gaps_are_for_on_gap(served):
    gaps = []
    async with served(relaying(on_gap=gaps.append)) as (client, channels):
        (feed,) = channels.backend._channels["news"].feeds.values()
        feed.miss((feed.last[0], 5))
        await wait_until(lambda: gaps)
        assert client.got == []


async def test_who_is_put_out_is_sent_nothing_more(config, served):
    config.set_security_policy(Policy())
    async with served(relaying(), permission="stay") as (client, channels):
        await channels.disconnect("ann")
        await channels.publish("news", 1)
        await wait_until(lambda: client.task.done())
        assert client.sent[1:] == [{"type": "websocket.close", "code": 4401, "reason": ""}]


async def test_after_its_close_nothing_is_sent(served):
    closed = asyncio.Event()

    async def func(websocket):
        await websocket.accept()
        async with websocket.relay("news"):
            await websocket.close()
            closed.set()
            await asyncio.Event().wait()

    async with served(func) as (client, channels):
        await closed.wait()
        await channels.publish("news", 1)
        assert [message["type"] for message in client.sent[1:]] == ["websocket.close"]
