"""Many events that are stored, to many who want them, over networks of all kinds."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from pyramid_asgi_consumers.channels import Channels, Event, Gap
from pyramid_asgi_consumers.channels.base import encode
from pyramid_asgi_consumers.channels.redis import RedisBackend, hub, pages
from tests.support.forwarder import Forwarder
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SECONDS = 60


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


@pytest.fixture
async def forwarder(server):
    async with Forwarder(server.port) as forwarder:
        yield forwarder


def publish(server, name, numbers, size=200):
    backend = RedisBackend(server.url, history=1000, timeout=SECONDS)
    results = backend.publish_many([(name, encode([n, "x" * size])) for n in numbers])
    backend._pool.disconnect()
    return results


async def take(events, count):
    async def taken():
        return [await events.__anext__() for _ in range(count)]

    return await asyncio.wait_for(taken(), SECONDS)


async def numbers(events, count):
    return [item.data[0] for item in await take(events, count)]


async def until(condition):
    async def wait():
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), SECONDS)


def outages(caplog):
    return [record.getMessage() for record in caplog.records if "touch" in record.getMessage()]


def the_hub(channels):
    (loop,) = channels.backend._loops.values()
    return loop.hub


async def join(channels, since, count, name="a"):
    async with channels.subscribe(name, since=since) as events:
        return await numbers(events, count)


async def test_many_with_an_old_since_share_what_is_read(server):
    since, *_ = await asyncio.to_thread(publish, server, "a", range(1001))

    def reads():
        return server.client.info("commandstats")["cmdstat_xrange"]["calls"]

    async with connected(server.url) as channels:
        assert await join(channels, since, 1000) == list(range(1, 1001))
        once = reads()
        for arrived in await asyncio.gather(*(join(channels, since, 1000) for _ in range(100))):
            assert arrived == list(range(1, 1001))
        # Who comes while it is read waits for the next reading, together with others.
        assert reads() <= 4 * once


async def test_each_gets_what_came_after_its_own_place(server):
    ids = await asyncio.to_thread(publish, server, "a", range(600))
    async with connected(server.url) as channels, channels.subscribe("a") as live:
        joining = [
            asyncio.ensure_future(join(channels, ids[start], 600 - start))
            for start in range(0, 599, 13)
        ]
        await asyncio.to_thread(publish, server, "a", [600])
        for task, start in zip(joining, range(0, 599, 13), strict=True):
            assert await task == list(range(start + 1, 601))
        assert await numbers(live, 1) == [600]


@pytest.mark.parametrize("history", [1000, 0])
async def test_many_channels_go_on_after_a_cut(history, server, forwarder, caplog):
    names = [f"channel {number}" for number in range(40)]
    async with AsyncExitStack() as stack:
        channels = await stack.enter_async_context(connected(forwarder.url, history=history))
        feeds = [await stack.enter_async_context(channels.subscribe(name)) for name in names]
        bystander = await stack.enter_async_context(connected(server.url))
        for name, feed in zip(names, feeds, strict=True):
            await channels.publish(name, [0])
            await numbers(feed, 1)
        forwarder.port = None
        server.client.client_kill_filter(_type="pubsub")
        await until(lambda: len(outages(caplog)) == 1)
        writer = RedisBackend(server.url, history=history, timeout=SECONDS)
        messages = [(name, encode([number])) for name in names for number in range(1, 301)]
        results = await asyncio.to_thread(writer.publish_many, messages)
        assert all(isinstance(result, str) for result in results)
        forwarder.port = server.port
        missing = {name: 300 for name in names}

        async def follow(name, feed):
            while missing[name]:
                (item,) = await take(feed, 1)
                assert isinstance(item, Event if history else Gap)
                if history:
                    assert item.data == [301 - missing[name]]
                missing[name] -= 1 if history else item.missed

        following = [follow(name, feed) for name, feed in zip(names, feeds, strict=True)]
        await asyncio.gather(bystander.publish("b", 1), *following)
        for name, feed in zip(names, feeds, strict=True):
            await channels.publish(name, ["live"])
            assert await numbers(feed, 1) == ["live"]
    assert len(outages(caplog)) == 2


async def test_what_is_published_meanwhile_follows_in_order(server):
    first, *_ = await asyncio.to_thread(publish, server, "a", range(500))
    async with connected(server.url, history=10_000) as channels:

        async def publish_on():
            for number in range(500, 1000):
                await channels.publish("a", [number])

        async def follow(since):
            async with channels.subscribe("a", since=since) as events:
                return await numbers(events, 999)

        arrived = await asyncio.gather(publish_on(), *(follow(first) for _ in range(5)))
        assert arrived[1:] == [list(range(1, 1000))] * 5


async def test_a_slow_network_is_waited_for_as_long_as_something_comes(server, forwarder, caplog):
    since, *_ = await asyncio.to_thread(publish, server, "a", range(301), size=400)
    async with connected(forwarder.url, timeout=0.5) as channels:
        await channels.publish("b", 1)
        # 120 kB take two seconds.
        forwarder.pace = 600
        assert await join(channels, since, 300) == list(range(1, 301))
    assert outages(caplog) == []


async def test_a_long_live_event_is_a_sign_of_life_all_along(
    server, forwarder, monkeypatch, caplog
):
    monkeypatch.setattr(hub, "BEAT", 0.3)
    async with connected(forwarder.url, timeout=0.5) as channels, channels.subscribe("a") as events:
        forwarder.pace = 600
        await asyncio.to_thread(publish, server, "a", [1], size=80_000)
        assert await numbers(events, 1) == [1]
    assert outages(caplog) == []


async def test_an_event_may_be_longer_than_a_page(server, monkeypatch):
    monkeypatch.setattr(hub, "PAGE_BYTES", 1000)
    since, *_ = await asyncio.to_thread(publish, server, "a", range(5), size=5000)
    async with connected(server.url) as channels:
        assert await join(channels, since, 4) == [1, 2, 3, 4]


async def test_what_has_arrived_is_kept_when_a_network_stalls(
    server, forwarder, monkeypatch, caplog
):
    monkeypatch.setattr(hub, "PAGE", 10)
    read = pages.parse_rows
    arrived = []

    def count(*page):
        rows, end = read(*page)
        arrived.extend(position for position, _, _ in rows)
        return rows, end

    monkeypatch.setattr(hub, "parse_rows", count)
    since, *_ = await asyncio.to_thread(publish, server, "a", range(501))
    async with connected(forwarder.url, timeout=0.5) as channels:
        async with channels.subscribe("b") as live:
            # Of what is stored a third comes over each connection.
            forwarder.stall_after = 50_000
            joining = asyncio.ensure_future(join(channels, since, 500))
            await until(lambda: forwarder.stalled)
            # Neither publishers nor live events are held up.
            await channels.publish("b", [1])
            assert await numbers(live, 1) == [1]
            assert await joining == list(range(1, 501))
    assert forwarder.stalled > 1
    assert len(arrived) == len(set(arrived)) == 500
    assert outages(caplog) == []


async def test_a_network_that_lets_nothing_through_is_an_outage(server, forwarder, caplog):
    since, *_ = await asyncio.to_thread(publish, server, "a", range(21))
    async with connected(forwarder.url, timeout=0.3) as channels:
        async with channels.subscribe("b"):
            forwarder.stall_after = 1500
            joining = asyncio.ensure_future(join(channels, since, 20))
            await until(lambda: len(outages(caplog)) == 1)
            forwarder.stall_after = None
            assert await joining == list(range(1, 21))


async def test_who_leaves_while_its_replay_is_read_leaves_nothing(server, monkeypatch):
    monkeypatch.setattr(hub, "AHEAD", 1)
    since, *_ = await asyncio.to_thread(publish, server, "a", range(3))
    page, release = pages.receive_page, asyncio.Event()
    arrived = []

    async def page_late(connection):
        arrived.append(await page(connection))
        await release.wait()
        return arrived[-1]

    async with connected(server.url) as channels, channels.subscribe("steady") as steady:
        monkeypatch.setattr(hub, "receive_page", page_late)
        leaving = [
            asyncio.ensure_future(channels.subscribe(name, since=since).__aenter__())
            for name in ("a", "b")
        ]
        await until(lambda: arrived and len(the_hub(channels)._first) == 1)
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
        assert len(the_hub(channels).feeds) == 1
        release.set()
        await until(lambda: not the_hub(channels)._first)
        assert await join(channels, since, 2) == [1, 2]
        await channels.publish("steady", [1])
        assert await numbers(steady, 1) == [1]


async def test_a_hub_forgets_the_names_of_channels_that_were_left(server):
    async with connected(server.url) as channels, channels.subscribe("steady"):
        since = {f"channel {number}": "unknown" for number in range(50)}
        async with channels.subscribe(*since, since=since, presence="ann") as events:
            await take(events, 50)
        hub = the_hub(channels)
        await until(lambda: len(server.client.pubsub_channels()) == 1)
        assert list(hub.feeds) == [b"asgi:0:steady"]
        assert not (hub._members or hub._unconfirmed or hub._first or hub._further)
    assert server.client.keys("*") == []


async def test_reading_creates_nothing(server):
    async with connected(server.url) as channels:
        async with channels.subscribe("never", "a", since={"a": "unknown"}) as events:
            assert await take(events, 1) == [Gap("a", None)]
            assert await channels.present("never") == []
        assert server.client.keys("*") == []
