"""Publishing after commits: a backend that waits and records, and requests that commit."""

import asyncio
import threading
import time
from types import SimpleNamespace

import transaction

from pyramid_asgi_consumers.channels import RequestChannels
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.exceptions import PublishRefused
from pyramid_asgi_consumers.interfaces import IChannels

SECONDS = 20


class Recorder(MemoryBackend):
    """The memory backend, and a note of what was published in which call, when it is let."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.begun = threading.Event()
        self.let = threading.Event()
        self.raises = None

    def publish_many(self, messages):
        self.begun.set()
        assert self.let.wait(SECONDS)
        self.calls.append([payload.decode() for _, payload in messages])
        if self.raises is not None:
            raise self.raises
        return super().publish_many(messages)

    async def publish(self, channel, payload):
        self.calls.append(payload.decode())
        return await super().publish(channel, payload)


def published():
    """Wait until all that was committed is published."""
    mine = [thread for thread in threading.enumerate() if thread.name == "channels-committed"]
    assert not any(thread.join(SECONDS) or thread.is_alive() for thread in mine)


def request_of(channels):
    def get_utility(interface):
        assert interface is IChannels
        return channels

    registry = SimpleNamespace(getUtility=get_utility)
    request = SimpleNamespace(registry=registry, tm=transaction.TransactionManager(explicit=True))
    request.channels = RequestChannels(request)
    return request


async def commit(request, *numbers):
    with request.tm:
        for number in numbers:
            await request.channels.apublish("a", number)


async def arrived(events, count):
    async def taken():
        return [(await events.__anext__()).data for _ in range(count)]

    return await asyncio.wait_for(taken(), SECONDS)


def wait_for_jobs(channels, count):
    """Wait until so many wait to be published, beside what is."""
    end = time.monotonic() + SECONDS
    while len(channels.committed._jobs) < count and time.monotonic() < end:
        time.sleep(0)


class Refuses(MemoryBackend):
    """Refuses all that is published after commits, when it is let."""

    def __init__(self):
        super().__init__()
        self.begun = threading.Event()
        self.let = threading.Event()

    def publish_many(self, messages):
        self.begun.set()
        assert self.let.wait(SECONDS)
        return [PublishRefused("away") for _ in messages]
