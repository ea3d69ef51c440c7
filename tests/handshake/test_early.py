"""Clients that leave, or send, while their handshake waits for a thread."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest
from pyramid.config import Configurator
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers.handshake.early import MOST_BYTES, MOST_EVENTS, EarlyEvents
from tests.support.asgi import CONNECT, SCOPES
from tests.support.wsgi import DISCONNECT, request, wait_until

LEFT = {"type": "websocket.disconnect", "code": 1006}


class Client:
    """What a server's ``receive`` tells of a client: ``events``, and then what it is to say."""

    def __init__(self, *events):
        self.events = asyncio.Queue()
        self.asked = 0
        self.say(*events)

    def say(self, *events):
        for event in events:
            self.events.put_nowait(event)

    async def receive(self):
        self.asked += 1
        event = await self.events.get()
        if isinstance(event, Exception):
            raise event
        return event


@asynccontextmanager
async def after_a_watch(client):
    """The early events of a client that stayed: the server is asked for the next already."""
    async with EarlyEvents(client.receive) as early:
        watch = asyncio.create_task(early.left())
        await wait_until(lambda: client.asked == 2)
        watch.cancel()
        await asyncio.wait([watch])
        yield early


# The events.


async def test_where_nothing_was_taken_the_consumer_gets_the_server_s_receive():
    client = Client()
    async with EarlyEvents(client.receive) as early:
        assert early.receive == client.receive
    assert client.asked == 0


async def test_what_came_early_is_received_first_and_nothing_is_lost():
    client = Client(CONNECT)
    async with after_a_watch(client) as early:
        receive = early.receive
        assert await receive() is CONNECT
        # Cancelled as by a timeout, the wait goes on.
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        first, second = {"type": "websocket.receive", "text": "1"}, LEFT
        client.say(first, second)
        assert await receive() is first
        assert await receive() is second
        assert client.asked == 3


async def test_two_tasks_that_receive_get_an_event_each():
    client = Client(CONNECT)
    async with after_a_watch(client) as early:
        receive = early.receive
        tasks = [asyncio.create_task(receive()) for _ in range(3)]
        await wait_until(lambda: client.asked == 3)
        client.say("a", "b")
        assert await asyncio.gather(*tasks) == [CONNECT, "a", "b"]


@pytest.mark.parametrize("event", [LEFT, DISCONNECT])
async def test_a_client_that_leaves_is_told_and_the_consumer_hears_it_too(event):
    client = Client(CONNECT, event)
    async with EarlyEvents(client.receive) as early:
        assert await early.left()
        assert [await early.receive(), await early.receive()] == [CONNECT, event]


@pytest.mark.parametrize(
    ("chunk", "most"), [(b"", MOST_EVENTS), (b"x" * 10, MOST_EVENTS), (b"x" * MOST_BYTES, 2)]
)
async def test_of_a_body_no_more_is_taken_than_a_little(chunk, most):
    events = [request(chunk, more=True) for _ in range(MOST_EVENTS + 5)]
    client = Client(*events)
    async with EarlyEvents(client.receive) as early:
        assert not await early.left()
        assert client.asked == most
        assert [await early.receive() for _ in events] == events


async def test_what_the_server_raises_early_is_not_for_the_consumer():
    client = Client(CONNECT, RuntimeError("not yet"))
    async with EarlyEvents(client.receive) as early:
        assert not await early.left()
        client.say(LEFT)
        assert [await early.receive(), await early.receive()] == [CONNECT, LEFT]


async def test_a_wait_ends_with_its_connection():
    client = Client(CONNECT)
    async with after_a_watch(client):
        assert len(asyncio.all_tasks()) == 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


# The queue.


class Site:
    """An application whose one thread for handshakes is taken until ``go_on`` is set."""

    def __init__(self):
        self.go_on, self.begun, self.seen = threading.Event(), [], []
        config = Configurator(settings={"asgi.handshake_threads": 1})
        config.include("pyramid_asgi_consumers")
        for path, protocol in [("/ws", "websocket"), ("/http", "http")]:
            config.add_asgi_consumer(
                path,
                protocol,
                self.consumer,
                factory=self.root,
                permission=NO_PERMISSION_REQUIRED,
                max_connections=2,
            )
        self.app = config.make_asgi_app()

    def root(self, request):
        self.begun.append(request.query_string)
        assert self.go_on.wait(20)
        return {}

    async def consumer(self, scope, receive, send):
        self.seen.append((await receive())["type"])
        answer = "websocket.accept" if scope["type"] == "websocket" else "http.response.start"
        await send({"type": answer, "status": 200, "headers": []})
        if scope["type"] == "http":
            await send({"type": "http.response.body", "body": b""})

    def open(self, kind, name, client, *headers):
        """Begin a request; return its task and the list of what is sent to it."""
        sent = []

        async def send(message):
            sent.append(message["type"])

        path = "/ws" if kind == "websocket" else "/http"
        scope = SCOPES[kind](path, query_string=name.encode(), headers=list(headers))
        return asyncio.create_task(self.app(scope, client.receive, send)), sent

    async def take_thread(self, kind, client):
        """Begin the request ``one``; return its task when its handshake has the only thread."""
        one, _ = self.open(kind, "one", client)
        await wait_until(lambda: self.begun == ["one"])
        return one


@pytest.fixture
async def site():
    site = Site()
    yield site
    site.go_on.set()
    await site.app.handshakes.drain(20)


FIRST = {"websocket": [CONNECT, LEFT], "http": [request(b""), DISCONNECT]}


@pytest.mark.parametrize("kind", FIRST)
async def test_a_handshake_whose_client_leaves_the_queue_is_never_made(site, kind, caplog):
    first, event = FIRST[kind]
    one = await site.take_thread(kind, Client(first))
    two, sent = site.open(kind, "two", Client(first, event))
    await two
    # It has given back its place, and the next client has it.
    three, _ = site.open(kind, "three", Client(first))
    await asyncio.sleep(0)
    site.go_on.set()
    await asyncio.gather(one, three)
    assert site.begun == ["one", "three"]
    assert site.seen == [first["type"]] * 2
    assert sent[0].endswith("response.start")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_client_that_waits_for_leave_to_send_its_body_gets_none_in_the_queue(site):
    one = await site.take_thread("http", Client(request(b"")))
    waits, other = Client(request(b"")), Client(CONNECT)
    two, _ = site.open("http", "two", waits, (b"expect", b"100-continue"))
    three, _ = site.open("websocket", "three", other)
    await wait_until(lambda: other.asked)
    assert waits.asked == 0
    site.go_on.set()
    await asyncio.gather(one, two, three)
    assert (site.begun, waits.asked) == (["one", "two", "three"], 1)


@pytest.mark.parametrize("kind", FIRST)
async def test_a_handshake_that_is_cancelled_in_the_queue_is_never_made(site, kind):
    first, _ = FIRST[kind]
    one = await site.take_thread(kind, Client(first))
    client = Client(first)
    two, _ = site.open(kind, "two", client)
    await wait_until(lambda: client.asked == 2)
    two.cancel()
    await asyncio.wait([two])
    site.go_on.set()
    await one
    assert (two.cancelled(), site.begun) == (True, ["one"])


@pytest.mark.parametrize("kind", FIRST)
async def test_a_client_that_leaves_while_its_handshake_is_made_is_told_to_the_consumer(site, kind):
    first, event = FIRST[kind]
    client = Client(first, event)
    one, _ = site.open(kind, "one", client)
    await wait_until(lambda: client.asked == 2)
    site.go_on.set()
    await one
    assert (site.begun, site.seen) == (["one"], [first["type"]])
