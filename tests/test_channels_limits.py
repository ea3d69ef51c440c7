"""What one page, one connection and one wait at Redis may cost, against the real server."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels import redis as module
from pyramid_asgi_consumers.channels.redis import RedisBackend
from pyramid_asgi_consumers.exceptions import PublishUnknown
from tests.redis_server import RedisServer

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
    monkeypatch.setattr(module, "PAGE_BYTES", 20_000)
    read, lengths = module._rows, []

    def measured(feed, stream, index, payloads):
        lengths.append(len(payloads))
        return read(feed, stream, index, payloads)

    monkeypatch.setattr(module, "_rows", measured)
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
    connections = module._Connections(backend._make_async_pool(), backend.timeout)
    pool = connections._pool
    taken = []

    async def take_one():
        async with connections.take():
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
    await connections.aclose()


async def test_whoever_is_cancelled_twice_has_ended_what_it_waited_for():
    ended, begun, may_end = [], asyncio.Event(), asyncio.Event()

    async def slow():
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            ended.append(1)

    waiting = asyncio.ensure_future(module._within(SECONDS, slow()))
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
