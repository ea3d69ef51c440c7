"""Publishing after commits that an event loop's thread makes, and what follows them."""

import asyncio
import subprocess
import sys
import threading
from types import SimpleNamespace
from uuid import uuid4

import pytest
import transaction

from pyramid_asgi_consumers.channels import Channels, RequestChannels
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import RedisBackend
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


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    mine = [thread for thread in threading.enumerate() if thread.name == "channels-committed"]
    assert not any(thread.join(SECONDS) or thread.is_alive() for thread in mine)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def channels(request):
    if request.param == "memory":
        return Channels(MemoryBackend())
    server = request.getfixturevalue("redis_server")
    return Channels(RedisBackend(server.url, prefix=f"{uuid4()}:"))


@pytest.fixture
def backend():
    return Recorder()


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


async def test_events_go_in_the_order_of_the_commits(channels):
    request = request_of(channels)
    async with channels.subscribe("a") as events:
        for number in range(200):
            await commit(request, number)
        assert await arrived(events, 200) == list(range(200))
    await channels.backend.aclose()


async def test_nothing_overtakes_what_was_committed_before(channels):
    request = request_of(channels)

    def elsewhere(number):
        request.channels.publish_now("a", number)
        with request.tm:
            request.channels.publish("a", number + 1)
        request.channels.publish("a", number + 2)

    async with channels.subscribe("a") as events:
        for number in range(0, 210, 7):
            await commit(request, number)
            await channels.publish("a", number + 1)
            await commit(request, number + 2)
            await request.channels.apublish("a", number + 3)
            await commit(request)
            await asyncio.to_thread(elsewhere, number + 4)
        assert await arrived(events, 210) == list(range(210))
        for number in range(30):
            await commit(request, number)
            await asyncio.to_thread(request.channels.publish_now, "a", "now")
        assert await arrived(events, 60) == [x for n in range(30) for x in (n, "now")]

        def committed():
            with request.tm:
                request.channels.publish("a", "then")

        for number in range(30):
            await commit(request, number)
            await asyncio.to_thread(committed)
        assert await arrived(events, 60) == [x for n in range(30) for x in (n, "then")]
    await channels.backend.aclose()


async def test_what_comes_while_the_backend_is_slow_goes_in_one_call(backend):
    channels = Channels(backend)
    request = request_of(channels)
    await commit(request, 0)
    assert await asyncio.to_thread(backend.begun.wait, SECONDS)
    for number in range(1, 4):
        await commit(request, number, number)
    then = asyncio.ensure_future(channels.publish("a", "then"))
    await asyncio.sleep(0)
    assert backend.calls == []
    backend.let.set()
    await asyncio.wait_for(then, SECONDS)
    assert backend.calls == [["j0"], ["j1", "j1", "j2", "j2", "j3", "j3"], 'j"then"']


async def test_who_no_longer_waits_is_passed_over(backend):
    channels = Channels(backend)
    await commit(request_of(channels), 0)
    first, second = (asyncio.ensure_future(channels.publish("a", name)) for name in "xy")
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    backend.let.set()
    await asyncio.wait_for(second, SECONDS)
    assert backend.calls == [["j0"], 'j"y"']
    await channels.committed.awaited()


@pytest.mark.parametrize("error", [LookupError("own\nfault"), SystemExit(3)])
async def test_a_backend_that_raises_stops_nothing(backend, caplog, error):
    channels = Channels(backend)
    request = request_of(channels)
    backend.let.set()
    backend.raises = error
    await commit(request, 0, 1)
    await channels.committed.awaited()
    backend.raises = None
    await commit(request, 2)
    await channels.publish("a", 3)
    assert backend.calls == [["j0", "j1"], ["j2"], "j3"]
    [record] = caplog.records
    assert record.getMessage() == "Publishing 2 events after the commit failed"
    assert record.exc_info[1] is error


async def test_a_refusal_is_logged_with_its_channel(caplog):
    class Refusing(MemoryBackend):
        def publish_many(self, messages):
            return [PublishRefused("away\n") for _ in messages]

    channels = Channels(Refusing())
    request = request_of(channels)
    with request.tm:
        await request.channels.apublish("a\n\x1b[31m", 1)
    await channels.committed.awaited()
    [record] = caplog.records
    assert record.getMessage() == (r"Not published on 'a\n\x1b[31m' after the commit: away\n")


async def test_where_no_thread_starts_any_more_it_is_published_all_the_same(backend, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    backend.let.set()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        await commit(request_of(Channels(backend)), 0)
    assert backend.calls == [["j0"]]


LAST = """
import asyncio, sys, transaction
from pyramid.config import Configurator
from pyramid.request import Request, apply_request_extensions

config = Configurator(settings={"asgi.channels": sys.argv[1], "asgi.channels.history": "200"})
config.include("pyramid_asgi_consumers")
config.commit()

async def main():
    for number in range(100):
        request = Request.blank("/")
        request.registry = config.registry
        apply_request_extensions(request)
        request.tm = transaction.TransactionManager(explicit=True)
        with request.tm:
            await request.channels.apublish("last", number)

asyncio.run(main())
"""


@pytest.mark.redis
async def test_a_process_that_ends_loses_nothing(redis_server):
    channels = Channels(RedisBackend(redis_server.url, history=200))
    async with channels.subscribe("last") as events:
        command = [sys.executable, "-W", "ignore", "-c", LAST, redis_server.url]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)
        assert await arrived(events, 100) == list(range(100))
    await channels.backend.aclose()
