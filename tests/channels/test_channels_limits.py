"""What one page, one connection and one wait at Redis may cost, against the real server."""

import asyncio
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.redis import RedisBackend, connections, deadlines, hub, pages
from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused, PublishUnknown
from tests.support.forwarder import Forwarder
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SECONDS = 30


@pytest.fixture
def server(tmp_path):
    server = RedisServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.close()


@asynccontextmanager
async def connected(url, **options):
    backend = RedisBackend(url, **{"timeout": 2.0, "history": 1000, **options})
    try:
        yield Channels(backend)
    finally:
        await backend.aclose()


async def take(events, count):
    async def taken():
        return [await events.__anext__() for _ in range(count)]

    return await asyncio.wait_for(taken(), SECONDS)


@pytest.mark.parametrize("few", [True, False])
async def test_a_page_is_no_longer_than_it_may_be_but_for_one_entry(few, server, monkeypatch):
    monkeypatch.setattr(hub, "PAGE_BYTES", 20_000)
    read, lengths = pages.parse_rows, []

    def measured(feed, stream, index, payloads):
        lengths.append(len(payloads))
        return read(feed, stream, index, payloads)

    monkeypatch.setattr(hub, "parse_rows", measured)
    async with connected(server.url) as channels:
        sizes = [1] if few else [1] * 100
        sizes += [100_000] * 20 + [3000] * 20 + [1] * 50
        ids = [await channels.publish("a", b"x" * size) for size in sizes]
        # Of what somebody else put there, nobody knows the lengths.
        for _ in range(10):
            server.client.xadd("asgi:stream:a", {"x": "y" * 100_000})
        sizes += [100_000] * 10
        ids += [await channels.publish("a", b"x" * 100_000) for _ in range(10)]
        async with channels.subscribe("a", since=ids[0]) as events:
            arrived = [event for event in await take(events, len(ids)) if hasattr(event, "data")]
        assert [event.size for event in arrived] == sizes[1:]
    assert max(lengths) <= 20_000 + 100_001


async def test_a_connection_that_comes_with_a_cancellation_is_released(server):
    backend = RedisBackend(server.url)
    kept = connections.Connections(backend._make_async_pool(), backend.timeout)
    pool = kept._pool
    taken = []

    async def take_one():
        async with kept.take():
            taken.append(1)

    await take_one()
    for steps in range(50):
        task = asyncio.ensure_future(take_one())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert not pool._in_use_connections
    assert len(pool._available_connections) <= 2 and len(taken) > 1
    await kept.aclose()


async def test_whoever_is_cancelled_twice_has_ended_what_it_waited_for():
    ended, begun, may_end = [], asyncio.Event(), asyncio.Event()

    async def slow():
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            ended.append(1)

    waiting = asyncio.ensure_future(connections.within(SECONDS, slow()))
    await begun.wait()
    for _ in range(3):
        waiting.cancel()
        await asyncio.sleep(0)
    may_end.set()
    await asyncio.wait([waiting])
    assert waiting.cancelled() and ended == [1]


async def test_what_is_stored_but_not_sent_is_not_refused(server):
    server.client.acl_setuser(
        "app", enabled=True, passwords=["+pw"], keys=["asgi:*"], categories=["+@all"]
    )
    url = server.url.replace("redis://", "redis://app:pw@")
    async with connected(url) as channels:
        backend = channels.backend
        (stored,) = await asyncio.to_thread(backend.publish_many, [("a", b"j1")])
        assert isinstance(stored, PublishUnknown) and "STORED" in str(stored)
        with pytest.raises(PublishUnknown, match="STORED"):
            await channels.publish("a", 2)
    assert server.client.xlen("asgi:stream:a") == 2


async def test_a_thread_is_held_no_longer_than_the_timeout_though_bytes_trickle(server):
    async with Forwarder(server.port) as forwarder:
        backend = RedisBackend(forwarder.url, timeout=2.0)

        async def publish():
            (result,) = await asyncio.to_thread(backend.publish_many, [("a", b"j1")])
            return result

        assert isinstance(await publish(), str)
        forwarder.pace = 1
        # What was read for before there was a pace still comes at once.
        assert isinstance(await publish(), str)
        # Each byte of an answer, of 25, comes in time.
        backend.timeout = 0.1
        assert isinstance(await publish(), PublishUnknown)
        # Nor is a connection made in that time.
        backend.timeout = 0.05
        assert isinstance(await publish(), PublishRefused)
        forwarder.pace = None
        backend.timeout = 2.0
        assert isinstance(await publish(), str)
        backend._pool.disconnect()


def test_a_socket_waits_until_the_threads_deadline(monkeypatch):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        timed = deadlines._TimedSocket(ours)
        theirs.sendall(b"one two")
        assert timed.recv(3) == b"one"
        part = bytearray(4)
        assert (timed.recv_into(part), part) == (4, b" two")
        monkeypatch.setattr(deadlines.this_thread, "deadline", 0.0)
        for use in (lambda: timed.recv(1), lambda: timed.sendall(b"x")):
            with pytest.raises(TimeoutError):
                use()
        timed.settimeout(0)
        with pytest.raises(BlockingIOError):
            timed.recv(1)


def test_all_addresses_of_a_server_share_the_threads_time(monkeypatch):
    backend = RedisBackend("redis://localhost/0", timeout=2.0)
    connection = backend._pool.make_connection()
    assert connection.socket_connect_timeout is None
    monkeypatch.setattr(deadlines.this_thread, "deadline", time.monotonic() + 1)
    assert connection.socket_connect_timeout <= 1
    monkeypatch.setattr(deadlines.this_thread, "deadline", time.monotonic())
    assert connection.socket_connect_timeout == 0.001


FORKS = """
import os, sys
from pyramid_asgi_consumers.channels.redis import RedisBackend
backend = RedisBackend(sys.argv[1] + "?max_connections=1", timeout=1.0)
publish = lambda: isinstance(backend.publish_many([("a", b"j1")])[0], str)
assert publish()
# As if another thread published.
backend._share().turns.get()
with backend._lock:
    child = os.fork()
    if not child:
        os._exit(publish() and publish())
    _, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 1
backend._share().turns.put(None)
assert publish()
"""


def test_a_fork_publishes_whatever_other_threads_did(server):
    subprocess.run([sys.executable, "-c", FORKS, server.url], check=True, timeout=SECONDS)


async def test_what_is_given_up_keeps_no_memory(server):
    async with connected(server.url, timeout=0.3) as channels:
        async with channels.subscribe("a", presence="ann"), channels.subscribe("a"):
            (loop,) = channels.backend._loops.values()
            server.pause()
            publishing = [asyncio.ensure_future(channels.publish("a", n)) for n in range(600)]
            await asyncio.sleep(0)
            publishing[-1].cancel()
            await asyncio.wait(publishing)
            assert not loop.commands._waiting
        # Who left is not there for whoever hears of it later, either.
        assert not loop.commands._waiting
        server.resume()


async def test_subscriptions_end_when_the_channels_are_closed(server):
    async with connected(server.url) as channels:
        async with channels.subscribe("a") as events:
            await channels.publish("a", 1)
            assert (await take(events, 1))[0].data == 1
            following = asyncio.ensure_future(take(events, 1))
            server.pause()
            entering = asyncio.ensure_future(channels.subscribe("b").__aenter__())
            await asyncio.sleep(0)
            await channels.backend.aclose()
            server.resume()
            with pytest.raises(ChannelsError, match="closed while a subscription was entered"):
                await asyncio.wait_for(entering, SECONDS)
            with pytest.raises(StopAsyncIteration):
                await following
            assert [event async for event in events] == []
        async with channels.subscribe("a") as events:
            await channels.publish("a", 2)
            assert (await take(events, 1))[0].data == 2
