"""A client of an event stream, in-process."""

import asyncio
import random
import re
import time
from types import SimpleNamespace

from pyramid.config import Configurator

from pyramid_asgi_consumers.channels import channels_of
from pyramid_asgi_consumers.interfaces import IEventStreams
from pyramid_asgi_consumers.testing.events import EventParser
from tests.support.asgi import http_scope

#: In so many seconds what is waited for happens, or the test fails.
DEADLINE = 20


def application(func, path="/events", settings=None, set_up=None, **arguments):
    config = Configurator(settings=settings)
    config.include("pyramid_asgi_consumers")
    if set_up is not None:
        set_up(config)
    config.add_event_stream(path, func, **arguments)
    return config.make_asgi_app()


class Reader:
    """A client of ``app`` that reads its stream at ``path``: ``async with Reader(app) as reader:``.

    ``last_event_id`` is sent as a browser sends it. With ``takes``, the client takes nothing more
    after so many messages. At the end the client leaves, and the application has ended.
    """

    def __init__(self, app, path="/events", last_event_id=None, takes=None, headers=(), **scope):
        if last_event_id:
            headers = [*headers, (b"last-event-id", last_event_id.encode())]
        self.app = app
        self.scope = http_scope(path, headers=headers, **scope)
        self.takes = takes
        self.left = asyncio.Event()
        self.slow = asyncio.Event()
        self.sent = []
        self.news = asyncio.Condition()
        self.parser = EventParser(last_event_id or "")
        self.requested = False

    async def receive(self):
        if not self.requested:
            self.requested = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if self.takes is not None and len(self.sent) >= self.takes:
            await self.slow.wait()
        self.sent.append(message)
        self.parser.feed(message.get("body", b""))
        async with self.news:
            self.news.notify_all()

    async def __aenter__(self):
        self.task = asyncio.create_task(self.app(self.scope, self.receive, self.send))
        self.task.add_done_callback(lambda task: asyncio.ensure_future(self._ended()))
        return self

    async def _ended(self):
        async with self.news:
            self.news.notify_all()

    async def __aexit__(self, *exc_info):
        self.left.set()
        self.slow.set()
        await asyncio.wait_for(asyncio.wait({self.task}), DEADLINE)

    @property
    def start(self):
        return self.sent[0]

    @property
    def status(self):
        return self.start["status"]

    @property
    def headers(self):
        return dict(self.start["headers"])

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def has_ended(self):
        """Whether the response has come whole."""
        return len(self.sent) > 1 and not self.sent[-1].get("more_body")

    @property
    def last_event_id(self):
        return self.parser.last_event_id

    async def until(self, condition):
        """Wait until ``condition()``, which what comes makes true; return what that is."""

        async def wait():
            async with self.news:
                while not (found := condition()):
                    await self.news.wait()
                return found

        return await asyncio.wait_for(wait(), DEADLINE)

    async def next(self):
        """The next event."""
        return await self.until(self.parser.take)

    async def next_data(self):
        return (await self.next()).data

    async def end(self):
        """Wait for the end of the application; raise what it raises."""
        await asyncio.wait_for(asyncio.shield(self.task), DEADLINE)


class Cycle(Reader):
    """A client of Uvicorn: ``paused`` is whether it is slow, ``error`` what sending raises."""

    __module__ = "uvicorn.protocols.http.httptools_impl"
    disconnected = False
    error = None
    #: What sending takes.
    seconds = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.flow = SimpleNamespace(write_paused=False)
        #: How much was sent at each turn of the loop.
        self.turns = []
        #: The task that has sent each message.
        self.senders = []

    async def send(self, message):
        if self.error is not None:
            raise self.error
        self.senders.append(asyncio.current_task())
        time.sleep(self.seconds)
        asyncio.get_running_loop().call_soon(lambda: self.turns.append(len(self.sent)))
        self.sent.append(message)
        self.parser.feed(message.get("body", b""))
        asyncio.ensure_future(self._ended())


def channels(app):
    return channels_of(app.registry)


def stop(app):
    """Have ``app`` told that its server stops."""
    ends = app.registry.getUtility(IEventStreams).stopping.of(asyncio.get_running_loop())
    for end in list(ends._ends):
        ends._end(end)


#: What breaks lines, looks like a field or a comment, or is no ASCII.
PIECES = ("\r", "\n", "\r\n", "\x85", "\u2028", "\ufeff", ":", " ", "data:", "id: 5", "event:x")
PIECES += ("é", "日本", "\U0001f600", "\0", "\t", "a", "retry: 1", "")


def cases(count=150):
    """Data, name and id of events: the same for each who asks."""
    chance = random.Random(9)

    def text():
        return "".join(chance.choices(PIECES, k=chance.randrange(6)))

    def line():
        return re.sub("[\r\n\0]", "", text()) if chance.random() < 0.5 else None

    # An empty name is none, and "end" and "error" are others.
    return [(text(), (name := line()) and f"n{name}", line()) for _ in range(count)]
