"""Channels that are forwarded to a websocket."""

import asyncio
import base64
import gc
import json
import sys

import pytest
from pyramid.config import Configurator
from pyramid.response import Response

from pyramid_asgi_consumers import WebSocket, WebSocketDisconnect
from pyramid_asgi_consumers.channels import Gap, channels_of
from pyramid_asgi_consumers.exceptions import (
    ChannelsError,
    ClientDisconnected,
    SubscriptionOverflow,
)
from pyramid_asgi_consumers.testing import TestApp
from tests.support.asgi import websocket_scope


@pytest.fixture
def config():
    config = Configurator(settings={"asgi.channels.history": "3"})
    config.include("pyramid_asgi_consumers")
    return config


class Client:
    """The client of one websocket; ``stays`` is after how many messages it leaves."""

    def __init__(self, config, stays=None):
        config.commit()
        self.channels = channels_of(config.registry)
        self.stays = stays
        self.sent = asyncio.Queue()
        self.taken = 0
        self.to_server = asyncio.Queue()
        self.to_server.put_nowait({"type": "websocket.connect"})
        scope = websocket_scope(**{"pyramid.registry": config.registry})
        self.websocket = WebSocket(scope, self.to_server.get, self.send)

    async def send(self, message):
        if message["type"] == "websocket.send":
            if self.taken == self.stays:
                raise ClientDisconnected("gone")
            self.taken += 1
            self.sent.put_nowait(message.get("text", message.get("bytes")))

    async def next(self):
        return await asyncio.wait_for(self.sent.get(), 20)


@pytest.fixture
async def only_this_task():
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}


pytestmark = pytest.mark.usefixtures("only_this_task")


async def test_what_is_published_is_sent_while_the_body_runs(config):
    client = Client(config)
    await client.websocket.accept()
    async with client.websocket.relay("a", "b"):
        await client.channels.publish("a", {"n": 1})
        await client.channels.publish("b", b"\x00\xff")
        await client.channels.publish("a", "text")
        assert [await client.next() for _ in range(3)] == ['{"n":1}', b"\x00\xff", '"text"']
        client.to_server.put_nowait({"type": "websocket.receive", "text": "hello"})
        assert await client.websocket.receive() == "hello"
    await client.channels.publish("a", "late")
    await asyncio.sleep(0)
    assert client.sent.empty()


async def test_the_options_are_those_of_subscribe(config):
    client = Client(config)
    await client.websocket.accept()
    first = await client.channels.publish("a", 1)
    await client.channels.publish("a", 2)
    async with client.websocket.relay("a", since=first, presence="me"):
        assert await client.next() == "2"
        assert await client.websocket.channels.present("a") == ["me"]
    with pytest.raises(ValueError, match="subscribe: overflow"):
        client.websocket.relay("a", overflow="other")


async def test_a_gap_is_not_sent(config):
    client = Client(config)
    await client.websocket.accept()
    ids = [await client.channels.publish("a", number) for number in range(6)]
    async with client.websocket.relay("a", since=ids[0]):
        assert [await client.next() for _ in range(3)] == ["3", "4", "5"]


async def awaited(gap):
    return gap


@pytest.mark.parametrize("wrap", [lambda gap: gap, awaited], ids=["def", "async def"])
@pytest.mark.parametrize("envelope", [False, True])
async def test_a_function_hears_of_a_gap(config, wrap, envelope):
    client = Client(config)
    await client.websocket.accept()
    ids = [await client.channels.publish("a", number) for number in range(6)]
    heard = []

    def on_gap(gap):
        heard.append(gap)
        return wrap(gap)

    async with client.websocket.relay("a", since=ids[0], on_gap=on_gap, envelope=envelope):
        while not (await client.next()).endswith(("5", '"data":5}')):
            pass
    assert heard == [Gap("a", 2)]


async def test_what_hears_of_a_gap_may_end_the_body(config):
    client = Client(config)
    await client.websocket.accept()
    ids = [await client.channels.publish("a", number) for number in range(6)]

    async def on_gap(gap):
        raise LookupError(gap.missed)

    with pytest.raises(LookupError):
        async with client.websocket.relay("a", since=ids[0], on_gap=on_gap):
            await asyncio.Event().wait()
    await asyncio.sleep(0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_what_hears_of_a_gap_does_not_end_the_server(config, error):
    client = Client(config)
    await client.websocket.accept()
    ids = [await client.channels.publish("a", number) for number in range(6)]

    async def on_gap(gap):
        raise error("mine")

    with pytest.raises(RuntimeError, match=f"The application raised {error.__name__}: mine"):
        async with client.websocket.relay("a", since=ids[0], on_gap=on_gap):
            await asyncio.Event().wait()


async def test_what_cannot_hear_of_a_gap_is_refused(config):
    client = Client(config)
    with pytest.raises(TypeError, match="relay: on_gap must be a function of a Gap, or None, not"):
        client.websocket.relay("a", on_gap="gap")


async def test_with_an_envelope_a_page_can_resume(config):
    client = Client(config)
    await client.websocket.accept()
    first = await client.channels.publish("a", "before")
    async with client.websocket.relay("a", "b", envelope=True):
        begins = [json.loads(await client.next()) for _ in range(2)]
        ids = [
            await client.channels.publish(*event) for event in (("a", {"é": 1}), ("b", b"\x00\xff"))
        ]
        got = [json.loads(await client.next()) for _ in range(2)]
    assert [begin.keys() for begin in begins] == [{"channel", "id"}] * 2
    assert begins[0] == {"channel": "a", "id": first}
    assert got == [
        {"channel": "a", "id": ids[0], "data": {"é": 1}},
        {"channel": "b", "id": ids[1], "base64": base64.b64encode(b"\x00\xff").decode()},
    ]
    since = {begin["channel"]: begin["id"] for begin in begins}
    client = Client(config)
    await client.websocket.accept()
    async with client.websocket.relay("a", "b", envelope=True, since=since):
        assert [json.loads(await client.next()) for _ in range(2)] == begins
        again = [json.loads(await client.next()) for _ in range(2)]
    assert sorted(again, key=str) == sorted(got, key=str)


async def test_an_envelope_is_made_once_for_all(config):
    client, other = Client(config), Client(config)
    await client.websocket.accept()
    await other.websocket.accept()
    async with client.websocket.relay("a", envelope=True):
        async with other.websocket.relay("a", envelope=True):
            await client.channels.publish("a", 1)
            await client.next()
            await other.next()
            assert await client.next() is await other.next()


async def test_with_an_envelope_a_page_hears_of_a_gap(config):
    client = Client(config)
    await client.websocket.accept()
    ids = [await client.channels.publish("a", number) for number in range(6)]
    async with client.websocket.relay("a", since=ids[0], envelope=True):
        got = [json.loads(await client.next()) for _ in range(5)]
    assert got[:3] == [
        {"channel": "a", "id": ids[0]},
        {"channel": "a", "id": ids[2], "gap": 2},
        {"channel": "a", "id": ids[3], "data": 3},
    ]


async def test_a_client_that_leaves_as_the_relay_begins_ends_it(config):
    client = Client(config, stays=0)
    await client.websocket.accept()
    with pytest.raises(WebSocketDisconnect):
        await client.websocket.relay("a", envelope=True, presence="me").__aenter__()
    assert await client.channels.present("a") == []


async def test_a_client_that_has_left_ends_the_body(config):
    client = Client(config, stays=1)
    await client.websocket.accept()
    ended = []
    with pytest.raises(WebSocketDisconnect):
        async with client.websocket.relay("a"):
            await client.channels.publish("a", 1)
            await client.channels.publish("a", 2)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)
    assert ended == [True]
    # The cancellation is over.
    await asyncio.sleep(0)


async def test_channels_that_are_closed_end_the_body(config):
    client = Client(config)
    await client.websocket.accept()
    relay = client.websocket.relay("a")
    with pytest.raises(ChannelsError, match="closed"):
        async with relay:
            # As a backend does that is closed.
            relay._subscription.end()
            await asyncio.Event().wait()
    await asyncio.sleep(0)


async def test_the_text_is_sent_as_it_is_without_being_parsed(config):
    client = Client(config)
    await client.websocket.accept()
    async with client.websocket.relay("a"):
        client.channels.backend.publish_many([("a", b"j[1, 2"), ("a", b"j[1,  2]")])
        assert await client.next() == "[1, 2"
        assert await client.next() == "[1,  2]"


async def test_an_overflow_ends_the_body(config):
    client = Client(config)
    await client.websocket.accept()
    full = asyncio.Event()

    async def stuck(message):
        await full.wait()

    client.websocket._send = stuck
    with pytest.raises(SubscriptionOverflow):
        async with client.websocket.relay("a", max_queue=1, overflow="close"):
            for number in range(4):
                await client.channels.publish("a", number)
            full.set()
            await asyncio.Event().wait()


async def test_a_body_that_ends_as_the_client_leaves_hears_of_it(config):
    client = Client(config, stays=0)
    await client.websocket.accept()
    with pytest.raises(WebSocketDisconnect):
        async with client.websocket.relay("a"):
            await client.channels.publish("a", 1)
            # The forwarding fails and asks for the body's end; no await follows in it.
            await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_what_the_body_raises_goes_first(config, caplog):
    client = Client(config, stays=0)
    await client.websocket.accept()
    with pytest.raises(KeyError):
        async with client.websocket.relay("a"):
            raise KeyError
    with pytest.raises(KeyError):
        async with client.websocket.relay("a"):
            await client.channels.publish("a", 1)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise KeyError from None
    await asyncio.sleep(0)
    gc.collect()
    assert caplog.text == ""


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_cancellation_from_outside_is_passed_on(config, leaves):
    client = Client(config, stays=0)
    await client.websocket.accept()
    begun = asyncio.Event()

    async def serve():
        async with client.websocket.relay("a"):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await begun.wait()
    if leaves:
        await client.channels.publish("a", 1)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=20)
    assert done
    # Python 3.10 does not count, so there the client's leaving is all that is known.
    assert task.cancelled() or (leaves and sys.version_info < (3, 11) and task.exception())


async def test_a_cancellation_while_the_relay_ends_is_passed_on(config):
    client = Client(config)
    await client.websocket.accept()
    release = asyncio.Event()
    closing = asyncio.Event()

    async def stubborn(message):
        try:
            await asyncio.Event().wait()
        finally:
            closing.set()
            await release.wait()

    client.websocket._send = stubborn

    async def serve():
        async with client.websocket.relay("a"):
            await client.channels.publish("a", 1)
            await asyncio.sleep(0)

    task = asyncio.create_task(serve())
    await asyncio.wait_for(closing.wait(), 20)
    task.cancel()
    await asyncio.sleep(0)
    release.set()
    await asyncio.wait({task}, timeout=20)
    assert task.cancelled()


def test_a_view_reaches_the_websockets(config):
    async def news(websocket):
        await websocket.accept()
        async with websocket.relay("news"):
            await websocket.send("ready")
            await websocket.wait_closed()

    def post(request):
        request.channels.publish("news", request.json_body)
        return Response("posted")

    config.add_websocket("/news", news)
    config.add_route("post", "/post")
    config.add_view(post, route_name="post")
    testapp = TestApp(config.make_asgi_app())
    with testapp.websocket("/news") as one, testapp.websocket("/news") as two:
        assert (one.receive(), two.receive()) == ("ready", "ready")
        testapp.post_json("/post", {"title": "It works"})
        assert one.receive_json() == two.receive_json() == {"title": "It works"}


def test_an_overflow_closes_the_websocket_with_1013(config):
    async def news(websocket):
        await websocket.accept()
        async with websocket.relay("news", max_queue=1, overflow="close"):
            websocket.channels.backend.publish_many([("news", b"j1")] * 3)
            await websocket.wait_closed()

    config.add_websocket("/news", news)
    testapp = TestApp(config.make_asgi_app())
    with testapp.websocket("/news") as websocket:
        with pytest.raises(WebSocketDisconnect) as caught:
            websocket.receive()
        assert caught.value.code == 1013
