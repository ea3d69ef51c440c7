"""How many events per second reach the readers of event streams: ours, bare ASGI, and peers.

    python -m benchmarks.streams [--readers 500] [--rounds 10] [--seconds 2] [VARIANT ...]

Each measurement starts a Uvicorn of its own, opens the readers, and has one event published when
all of them have got the one before. The variants are measured in another order each round. Prints
the median of the deliveries per second and of the ratio to the bare application in the same round,
with the quartiles of that ratio: by the clock, and by the processor time of the server (Linux).
What readers got wrong is counted. Server and readers have a processor each, where there are two.

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

import argparse
import asyncio
import contextlib
import os
import random
import select
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pyramid.config import Configurator
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from pyramid_asgi_consumers.interfaces import IChannels

HOST = "127.0.0.1"
VARIANTS = ("loop", "future", "bare", "ours", "starlette", "sse-starlette")
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

# The server's, and the readers'.
PROCESSORS = sorted(os.sched_getaffinity(0))

# What is measured.


def text(number):
    return f"event {number:08}: " + "x" * 84


def frame(number):
    """The same, to the byte, as ours sends with its ids."""
    return f"id: 1234567890123456-{number}.Abcdefgh12345678\ndata: {text(number)}\n\n".encode()


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


class Queues:
    """A generator for each reader, over a queue of its own."""

    def __init__(self):
        self.queues = set()
        self.app = Starlette(routes=[Route("/", self.respond)])

    async def __call__(self, scope, receive, send):
        await self.app({**scope, "path": "/"}, receive, send)

    async def respond(self, request):
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(self.events(), 200, headers, "text/event-stream")

    async def events(self):
        queue = asyncio.Queue()
        self.queues.add(queue)
        try:
            yield b"id: 0\n\n"
            while True:
                yield frame(await queue.get())
        finally:
            self.queues.remove(queue)

    async def publish(self, number):
        for queue in self.queues:
            queue.put_nowait(number)


class SSE(Queues):
    async def respond(self, request):
        return EventSourceResponse(self.events(), ping=3600, sep="\n")

    async def events(self):
        queue = asyncio.Queue()
        self.queues.add(queue)
        try:
            yield {"data": "", "id": "0"}
            while True:
                number = await queue.get()
                yield {"data": text(number), "id": f"1234567890123456-{number}.Abcdefgh12345678"}
        finally:
            self.queues.remove(queue)


CLASSES = dict(zip(VARIANTS, (Loop, Futures, Bare, Ours, Queues, SSE), strict=True))


def make_app():
    made = {}

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        name, _, number = scope["path"].strip("/").partition("/")
        if name not in made:
            made[name] = CLASSES[name]()
        if not number:
            return await made[name](scope, receive, send)
        await made[name].publish(int(number))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    return app


# How it is measured.


class Readers:
    """Connections that wait for events, in turn with one that has them published."""

    def __init__(self, port, variant, number):
        self.variant = variant
        self.wrong = 0
        self.published = 0
        self.poll = select.epoll()
        self.connections = {}
        self.control = socket.create_connection((HOST, port), 10)
        for _ in range(number):
            connection = socket.create_connection((HOST, port), 10)
            connection.sendall(self._request(""))
            self.connections[connection.fileno()] = connection
        for connection in self.connections.values():
            came = b""
            while b"\r\n\r\n" not in came or b"\n\n" not in came.partition(b"\r\n\r\n")[2]:
                came += self._received(connection)
            if not came.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{variant}: {came!r}")
            connection.setblocking(False)
            self.poll.register(connection, select.EPOLLIN)

    def close(self):
        self.poll.close()
        for connection in (self.control, *self.connections.values()):
            connection.close()

    def _request(self, path):
        return f"GET /{self.variant}/{path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

    @staticmethod
    def _received(connection):
        data = connection.recv(65536)
        if not data:
            raise SystemExit("The server has closed a connection")
        return data

    def run(self, seconds):
        """Return how many events all readers have got in about so many seconds."""
        begin = self.published
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.turn()
        return (self.published - begin) * len(self.connections)

    def turn(self):
        """Have one event published, and wait until each reader has it."""
        self.published += 1
        expected = text(self.published).encode()
        self.control.sendall(self._request(str(self.published)))
        came = {}
        waiting = len(self.connections)
        while waiting:
            for fileno, _ in self.poll.poll(20):
                data = self._received(self.connections[fileno])
                if fileno in came:
                    data = came[fileno] + data
                came[fileno] = data
                # The end of an event, and of a chunk (RFC 9112 section 7.1).
                if data.endswith(b"\n\n\r\n"):
                    waiting -= 1
                    self.wrong += expected not in data
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._received(self.control)
        self.wrong += not answer.startswith(b"HTTP/1.1 204")


@contextlib.contextmanager
def serving():
    """A server, on the first processor; its process and its port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = (
        f"{sys.executable} -m uvicorn --factory --port {port} --no-access-log --log-level warning"
        " --timeout-graceful-shutdown 1 --backlog 2048 benchmarks.streams:make_app"
    )
    root = Path(__file__).resolve().parent.parent
    server = subprocess.Popen(command.split(), cwd=root)
    os.sched_setaffinity(server.pid, PROCESSORS[:1])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((HOST, port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise SystemExit(f"{command} does not start") from None
                time.sleep(0.05)
        yield server, port
    finally:
        server.kill()
        server.wait()


def measure(variant, readers, seconds):
    """Return the deliveries per second, by the clock and by processor time, and what was wrong."""
    with serving() as (server, port), contextlib.closing(Readers(port, variant, readers)) as made:
        made.run(seconds / 4)
        start, busy = time.perf_counter(), processor_time(server)
        deliveries = made.run(seconds)
        elapsed, busy = time.perf_counter() - start, processor_time(server) - busy
        return deliveries / elapsed, deliveries / busy, made.wrong


def processor_time(server):
    """Return the seconds for which the server's main thread has run."""
    return int(Path(f"/proc/{server.pid}/schedstat").read_text().split()[0]) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", default=VARIANTS, help=" ".join(VARIANTS))
    parser.add_argument("--readers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2, help="of one measurement")
    options = parser.parse_args()
    os.sched_setaffinity(0, PROCESSORS[-1:])
    figures = {variant: [] for variant in options.variants}
    for _ in range(options.rounds):
        for variant in random.sample(options.variants, len(options.variants)):
            figures[variant].append(measure(variant, options.readers, options.seconds))
    print(f"{options.readers} readers, {options.rounds} rounds of {options.seconds:g} s")
    against = "bare" if "bare" in figures else options.variants[0]
    for kind, by in enumerate(("by the clock", "by processor time")):
        print(f"{by:18} {'per second':>10} {'ratio':>6}   {'quartiles':16} {'wrong':>5}")
        base = [rates[kind] for rates in figures[against]]
        for variant, measured in figures.items():
            rates = [rates[kind] for rates in measured]
            ratios = [rate / least for rate, least in zip(rates, base, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"{variant:18} {statistics.median(rates):10.0f} {middle:6.3f}"
                f"   {low:.3f} to {high:.3f}   {sum(rates[2] for rates in measured):5}"
            )


if __name__ == "__main__":
    main()
