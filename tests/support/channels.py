"""What tests of channels do again and again."""

import asyncio
import logging
from contextlib import asynccontextmanager, contextmanager
from uuid import uuid4

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.events import encode
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import RedisBackend

SECONDS = 60


@asynccontextmanager
async def connected(url, **options):
    """Channels at a Redis, closed in the end."""
    backend = RedisBackend(url, **{"timeout": 2.0, **options})
    try:
        yield Channels(backend)
    finally:
        await backend.aclose()


async def take(events, count):
    """The next items of a subscription."""

    async def taken():
        return [await events.__anext__() for _ in range(count)]

    return await asyncio.wait_for(taken(), SECONDS)


async def until(condition):
    """Wait until the condition holds."""

    async def wait():
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), SECONDS)


async def numbers_of(events, count):
    """The numbers of the next events, which must be those of ``store``."""
    return [item.data[0] for item in await take(events, count)]


def store(url, name, numbers, size=200):
    """Publish each number, in a thread, with so many characters behind it; return the ids."""
    backend = RedisBackend(url, history=1000, timeout=SECONDS)
    results = backend.publish_many([(name, encode([n, "x" * size])) for n in numbers])
    backend.blocking.pool.disconnect()
    return results


@contextmanager
def handled_by(handler):
    """Have ``handler`` get what the package logs."""
    logger = logging.getLogger("pyramid_asgi_consumers")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def logged(caplog, words):
    """The records whose message has these words."""
    return [record for record in caplog.records if words in record.getMessage()]


def outages(caplog):
    """How often Redis went out of reach, and how often it came back."""
    return len(logged(caplog, "out of touch")), len(logged(caplog, "in touch with Redis again"))


def the_loop(channels):
    """What the backend has on the only event loop that used it."""
    (loop,) = channels.backend._loops.values()
    return loop


async def data(events, count):
    """The data of the next events."""
    return [event.data for event in await take(events, count)]


def published(backend, *messages):
    """Publish names and data as a thread does; return the ids."""
    return backend.publish_many([(name, encode(content)) for name, content in messages])


class Memory:
    """How backends within the process are made, and seen to be empty."""

    def make(self, **options):
        return MemoryBackend(**options)

    async def is_empty(self, backend):
        return not backend._inboxes and not any(
            channel.feeds or channel.members for channel in backend._channels.values()
        )

    async def stored(self, backend):
        return list(backend._channels)


class Redis:
    """How backends at a Redis are made, and seen to be empty."""

    def __init__(self, server):
        self.server = server

    def make(self, **options):
        return RedisBackend(self.server.url, prefix=f"{uuid4()}:", **options)

    async def is_empty(self, backend):
        client = self.server.client
        return not client.keys(backend.keys.members("*")) and not client.pubsub_channels(
            backend.keys.redis_channel("*")
        )

    def cut(self):
        """Break the connections of all subscriptions."""
        self.server.client.client_kill_filter(_type="pubsub")

    async def stored(self, backend):
        found = self.server.client.keys(backend.keys.stream("*"))
        return found + self.server.client.keys(backend.keys.members("*"))
