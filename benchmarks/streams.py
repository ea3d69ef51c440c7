"""How many events per second reach the readers of event streams: ours, bare ASGI, and peers.

Each measurement starts a Uvicorn of its own, opens the readers, and has one event published when
all of them have got the one before. Server and readers have a processor each, where there are two.

``loop``
    A bare ASGI application that goes through its readers and sends to each: the least that can be
    done. It holds up all readers for one that is slow.
``bare``
    A bare ASGI application: for each reader the task that its server has made, which waits for an
    ``asyncio.Queue`` of its own.
``future``
    The same with a bare future in the place of the queue, which has no room for a second event.
``ours``
    ``add_event_stream`` and ``stream.relay``, with channels in memory.
``starlette``
    ``StreamingResponse`` of a generator over an ``asyncio.Queue`` of each reader.
``sse-starlette``
    ``EventSourceResponse``, likewise.
"""

import asyncio
import contextlib
import pkgutil

from pyramid.config import Configurator

from benchmarks.command import main
from benchmarks.support import (
    Audience,
    Failure,
    Table,
    Variant,
    has_head,
    opened,
    rates,
    received_until,
    request,
    serving,
)
from pyramid_asgi_consumers.interfaces import IChannels

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


def text(number):
    return f"event {number:08}: " + "x" * 84


def id_of(number):
    """As long as ours are."""
    return f"1234567890123456-{number}.Abcdefgh12345678"


def frame(number):
    """The same, to the byte, as ours sends with its ids."""
    return f"id: {id_of(number)}\ndata: {text(number)}\n\n".encode()


def of(body):
    return {"type": "http.response.body", "body": body, "more_body": True}


class Loop:
    """Sends to one reader after the other."""

    def __init__(self):
        self.readers = set()

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send(of(b"id: 0\n\n"))
        self.readers.add(send)
        await receive()
        await receive()
        self.readers.remove(send)

    async def publish(self, number):
        message = of(frame(number))
        for send in self.readers:
            await send(message)


class Futures:
    """Settles a future of each reader."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.waiting = []

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send(of(b"id: 0\n\n"))
        while True:
            news = self.loop.create_future()
            self.waiting.append(news)
            await send(await news)

    async def publish(self, number):
        waiting, self.waiting = self.waiting, []
        message = of(frame(number))
        for news in waiting:
            news.set_result(message)


class Bare:
    """Has a queue for each reader."""

    def __init__(self):
        self.queues = set()

    async def __call__(self, scope, receive, send):
        queue = asyncio.Queue()
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send(of(b"id: 0\n\n"))
        self.queues.add(queue)
        while True:
            await send(of(await queue.get()))

    async def publish(self, number):
        body = frame(number)
        for queue in self.queues:
            queue.put_nowait(body)


class Ours:
    def __init__(self):
        async def news(stream):
            async with stream.relay("news"):
                await stream.wait_closed()

        with Configurator() as config:
            config.include("pyramid_asgi_consumers")
            config.add_event_stream("/", news)
            self.app = config.make_asgi_app()
        self.channels = self.app.registry.getUtility(IChannels)

    async def __call__(self, scope, receive, send):
        await self.app({**scope, "path": "/"}, receive, send)

    async def publish(self, number):
        await self.channels.publish("news", text(number))


VARIANTS = {
    "loop": Variant("benchmarks.streams:Loop"),
    "future": Variant("benchmarks.streams:Futures"),
    "bare": Variant("benchmarks.streams:Bare"),
    "ours": Variant("benchmarks.streams:Ours"),
    "starlette": Variant("benchmarks.peers.starlette:Events", ("starlette",)),
    "sse-starlette": Variant(
        "benchmarks.peers.sse_starlette:Events", ("starlette", "sse_starlette")
    ),
}


def make_app():
    """Serves each variant under its name, and publishes the number that stands behind it."""
    made = {}

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        name, _, number = scope["path"].strip("/").partition("/")
        if name not in made:
            made[name] = pkgutil.resolve_name(VARIANTS[name].app)()
        if not number:
            return await made[name](scope, receive, send)
        await made[name].publish(int(number))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    return app


class Streams(Table):
    name = "streams"
    title = "An event to the readers of event streams"
    units = ("deliveries/s", "deliveries/s of processor time")
    reference = "bare"
    variants = VARIANTS
    sizes = {"readers": 500}

    def measure(self, variant, ground, size, seconds):
        with serving("benchmarks.streams:make_app") as server:
            requests = [request(f"/{variant}/")] * size["readers"]
            with contextlib.closing(Audience(readers(server.port, requests))) as audience:
                ((control, _),) = opened(server.port, [request(f"/{variant}/0")])
                # That was the first event.
                audience.right(is_whole, lambda data: True)
                with control:
                    return rates(server, seconds, self._publishing(variant, control, audience))

    def _publishing(self, variant, control, audience):
        number = 0

        def publish():
            nonlocal number
            number += 1
            expected = text(number).encode()
            control.sendall(request(f"/{variant}/{number}"))
            right = audience.right(is_whole, lambda data: expected in data)
            answer = received_until(control, has_head)
            wrong = len(audience.connections) - right
            return right, wrong + (not answer.startswith(b"HTTP/1.1 204"))

        return publish


def readers(port, requests):
    """Connections that have got the first id."""
    for connection, came in opened(port, requests):
        while b"\n\n" not in came.partition(b"\r\n\r\n")[2]:
            came += connection.recv(65536)
        if not came.startswith(b"HTTP/1.1 200"):
            raise Failure(f"no event stream: {came!r}")
        yield connection


def is_whole(data):
    """At the end of an event, and of a chunk (RFC 9112 section 7.1)."""
    return data.endswith(b"\n\n\r\n")


TABLES = [Streams()]

if __name__ == "__main__":
    main(__doc__, TABLES)
