"""Many events that are stored, to many who want them, over networks of all kinds."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from pyramid_asgi_consumers.channels import Event, Gap
from pyramid_asgi_consumers.channels.events import encode
from pyramid_asgi_consumers.channels.redis import RedisBackend, reader
from pyramid_asgi_consumers.channels.redis.feeds import StreamFeed
from pyramid_asgi_consumers.channels.redis.keys import Keys
from tests.channels.redis.doubles import Connection
from tests.channels.redis.subscribers import Subscriber, live_feed, lone_session
from tests.support.channels import (
    SECONDS,
    connected,
    numbers_of,
    outages,
    store,
    take,
    the_loop,
    until,
)

# What arrives while it is being found out where a channel stands.


async def test_what_arrives_while_the_head_is_read_is_delivered_after_it(server, monkeypatch):
    page = reader._receive_page
    late = iter(["feed", "replay"])

    async with connected(server.url, history=10) as channels:

        async def page_late(connection):
            reply = await page(connection)
            backend = channels.backend
            await asyncio.to_thread(backend.publish_many, [("a", encode(next(late)))])
            (feed,) = the_loop(channels).hub.feeds.values()
            await until(lambda: feed.reading.held)
            return reply

        since = await channels.publish("a", "first")
        monkeypatch.setattr(reader, "_receive_page", page_late)
        async with channels.subscribe("a") as events:
            assert (await take(events, 1))[0].data == "feed"
            async with channels.subscribe("a", since=since) as replayed:
                assert [event.data for event in await take(replayed, 2)] == ["feed", "replay"]
            assert (await take(events, 1))[0].data == "replay"


@pytest.mark.parametrize("few", [True, False])
async def test_a_page_is_no_longer_than_it_may_be_but_for_one_entry(few, server, monkeypatch):
    monkeypatch.setattr(reader, "PAGE_BYTES", 20_000)
    read, lengths = reader.parse_rows, []

    def measured(channel, stream, index, payloads):
        lengths.append(len(payloads))
        return read(channel, stream, index, payloads)

    monkeypatch.setattr(reader, "parse_rows", measured)
    async with connected(server.url, history=1000) as channels:
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


async def join(channels, since, count, name="a"):
    async with channels.subscribe(name, since=since) as events:
        return await numbers_of(events, count)


async def test_many_with_an_old_since_share_what_is_read(server):
    since, *_ = await asyncio.to_thread(store, server.url, "a", range(1001))

    def reads():
        return server.client.info("commandstats")["cmdstat_xrange"]["calls"]

    async with connected(server.url, history=1000) as channels:
        assert await join(channels, since, 1000) == list(range(1, 1001))
        once = reads()
        for arrived in await asyncio.gather(*(join(channels, since, 1000) for _ in range(100))):
            assert arrived == list(range(1, 1001))
        # Who comes while it is read waits for the next reading, together with others.
        assert reads() <= 4 * once


async def test_each_gets_what_came_after_its_own_place(server):
    ids = await asyncio.to_thread(store, server.url, "a", range(600))
    async with connected(server.url, history=1000) as channels, channels.subscribe("a") as live:
        joining = [
            asyncio.ensure_future(join(channels, ids[start], 600 - start))
            for start in range(0, 599, 13)
        ]
        await asyncio.to_thread(store, server.url, "a", [600])
        for task, start in zip(joining, range(0, 599, 13), strict=True):
            assert await task == list(range(start + 1, 601))
        assert await numbers_of(live, 1) == [600]


@pytest.mark.parametrize("history", [1000, 0])
async def test_many_channels_go_on_after_a_cut(history, server, forwarder, caplog):
    names = [f"channel {number}" for number in range(40)]
    async with AsyncExitStack() as stack:
        channels = await stack.enter_async_context(connected(forwarder.url, history=history))
        feeds = [await stack.enter_async_context(channels.subscribe(name)) for name in names]
        bystander = await stack.enter_async_context(connected(server.url, history=1000))
        for name, feed in zip(names, feeds, strict=True):
            await channels.publish(name, [0])
            await numbers_of(feed, 1)
        forwarder.port = None
        server.client.client_kill_filter(_type="pubsub")
        await until(lambda: outages(caplog) == (1, 0))
        writer = RedisBackend(server.url, history=history)
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
            assert await numbers_of(feed, 1) == ["live"]
    assert outages(caplog) == (1, 1)


async def test_what_is_published_meanwhile_follows_in_order(server):
    first, *_ = await asyncio.to_thread(store, server.url, "a", range(500))
    async with connected(server.url, history=10_000) as channels:

        async def publish_on():
            for number in range(500, 1000):
                await channels.publish("a", [number])

        async def follow(since):
            async with channels.subscribe("a", since=since) as events:
                return await numbers_of(events, 999)

        arrived = await asyncio.gather(publish_on(), *(follow(first) for _ in range(5)))
        assert arrived[1:] == [list(range(1, 1000))] * 5


async def test_a_slow_network_is_waited_for_as_long_as_something_comes(server, forwarder, caplog):
    since, *_ = await asyncio.to_thread(store, server.url, "a", range(301), size=400)
    async with connected(forwarder.url, timeout=0.5, history=1000) as channels:
        await channels.publish("b", 1)
        # 120 kB take two seconds.
        forwarder.pace = 600
        assert await join(channels, since, 300) == list(range(1, 301))
    assert outages(caplog) == (0, 0)


async def test_an_event_may_be_longer_than_a_page(server, monkeypatch):
    monkeypatch.setattr(reader, "PAGE_BYTES", 1000)
    since, *_ = await asyncio.to_thread(store, server.url, "a", range(5), size=5000)
    async with connected(server.url, history=1000) as channels:
        assert await join(channels, since, 4) == [1, 2, 3, 4]


async def test_what_has_arrived_is_kept_when_a_network_stalls(
    server, forwarder, monkeypatch, caplog
):
    monkeypatch.setattr(reader, "PAGE", 10)
    read = reader.parse_rows
    arrived = []

    def count(*page):
        rows, end = read(*page)
        arrived.extend(position for position, _, _ in rows)
        return rows, end

    monkeypatch.setattr(reader, "parse_rows", count)
    since, *_ = await asyncio.to_thread(store, server.url, "a", range(501))
    async with connected(forwarder.url, timeout=0.5, history=1000) as channels:
        async with channels.subscribe("b") as live:
            # Of what is stored a third comes over each connection.
            forwarder.stall_after = 50_000
            joining = asyncio.ensure_future(join(channels, since, 500))
            await until(lambda: forwarder.stalled)
            # Neither publishers nor live events are held up.
            await channels.publish("b", [1])
            assert await numbers_of(live, 1) == [1]
            assert await joining == list(range(1, 501))
    assert forwarder.stalled > 1
    assert len(arrived) == len(set(arrived)) == 500
    assert outages(caplog) == (0, 0)


async def test_a_network_that_lets_nothing_through_is_an_outage(server, forwarder, caplog):
    since, *_ = await asyncio.to_thread(store, server.url, "a", range(21))
    async with connected(forwarder.url, timeout=0.3, history=1000) as channels:
        async with channels.subscribe("b"):
            forwarder.stall_after = 1500
            joining = asyncio.ensure_future(join(channels, since, 20))
            await until(lambda: outages(caplog) == (1, 0))
            forwarder.stall_after = None
            assert await joining == list(range(1, 21))


async def test_who_leaves_while_its_replay_is_read_leaves_nothing(server, monkeypatch):
    monkeypatch.setattr(reader, "AHEAD", 1)
    since, *_ = await asyncio.to_thread(store, server.url, "a", range(3))
    page, release = reader._receive_page, asyncio.Event()
    arrived = []

    async def page_late(connection):
        arrived.append(await page(connection))
        await release.wait()
        return arrived[-1]

    async with (
        connected(server.url, history=1000) as channels,
        channels.subscribe("steady") as steady,
    ):
        monkeypatch.setattr(reader, "_receive_page", page_late)
        leaving = [
            asyncio.ensure_future(channels.subscribe(name, since=since).__aenter__())
            for name in ("a", "b")
        ]
        await until(lambda: arrived and len(the_loop(channels).hub._session.reader._first) == 1)
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
        assert len(the_loop(channels).hub.feeds) == 1
        release.set()
        await until(lambda: not the_loop(channels).hub._session.reader._first)
        assert await join(channels, since, 2) == [1, 2]
        await channels.publish("steady", [1])
        assert await numbers_of(steady, 1) == [1]


async def test_a_hub_forgets_the_names_of_channels_that_were_left(server):
    async with connected(server.url, history=1000) as channels, channels.subscribe("steady"):
        since = {f"channel {number}": "unknown" for number in range(50)}
        async with channels.subscribe(*since, since=since, presence="ann") as events:
            await take(events, 50)
        hub = the_loop(channels).hub
        serving = hub._session
        await until(lambda: len(server.client.pubsub_channels()) == 1)
        assert list(hub.feeds) == [b"asgi:0:steady"]
        assert not (hub._presence._members or serving._unconfirmed)
        assert not (serving.reader._first or serving.reader._further)
    assert server.client.keys("*") == []


async def test_reading_creates_nothing(server):
    async with connected(server.url, history=1000) as channels:
        async with channels.subscribe("never", "a", since={"a": "unknown"}) as events:
            assert await take(events, 1) == [Gap("a", None)]
            assert await channels.present("never") == []
        assert server.client.keys("*") == []


async def test_a_page_from_another_server_than_the_subscribers_is_not_taken():
    feed = live_feed()
    reading = lone_session({b"0:a": feed}).reader
    reading.life = b"one"
    with pytest.raises(ConnectionError, match="two servers"):
        reading._take_page(feed, [b"other", b"1-1", b"", b"", b""])


async def test_a_feed_that_is_live_is_not_read_again_for_who_needs_no_replay():
    feed = live_feed()
    reading = lone_session({}).reader
    feed.confirmed = True
    feed.published = (1, 5)
    feed.add(Subscriber(), None, in_touch=True)
    reading.want(feed)
    assert not reading._first


async def test_a_page_of_a_channel_that_was_left_is_nobodys():
    feed = live_feed()
    feed.asked = True
    lone_session({}).reader._take_page(feed, None)
    assert (feed.asked, feed.last) == (False, (1, 1))


def reader_of(connection, *names):
    """A reader that is to read what is stored in the channels ``names``; and their feeds."""
    feeds = {}
    keys = Keys("", 0)
    reading = reader.StoredReader(feeds, keys, connection, SECONDS, lambda: None)
    reading.life = b"one"
    for name in names:
        feed = feeds[keys.redis_channel(name)] = StreamFeed(name, False, 100)
        feed.add(Subscriber(), None, in_touch=True)
        feed.confirmed = True
        reading.want(feed)
    return reading, feeds


EMPTY = [b"one", b"", b"", b"", b"1 one"]


async def test_a_channel_that_was_left_before_it_was_asked_for_is_not_read():
    connection = Connection()
    left, feeds = reader_of(connection, "a")
    feeds.clear()
    await left._read()
    assert (connection.sent, left._wanted.is_set()) == ([], False)


async def test_pages_that_were_on_their_way_when_the_connection_broke_are_asked_for_again():
    reading, feeds = reader_of(Connection(EMPTY, ConnectionResetError()), "a", "b")
    await reading._read()
    assert [feed.caught_up for feed in feeds.values()] == [True, False]
    assert list(reading._first) == [feeds[b"0:b"]]
    reading._connections = Connection(EMPTY)
    await reading._read()
    assert len(reading._connections.sent) == 1
    assert all(feed.caught_up for feed in feeds.values())


async def test_a_connection_that_breaks_before_anything_was_read_is_an_error():
    reading, _ = reader_of(Connection(ConnectionResetError()), "a")
    with pytest.raises(ConnectionResetError):
        await reading._read()


async def test_many_channels_are_not_asked_for_at_once():
    names = [str(number) for number in range(2 * reader.AHEAD)]
    connection = Connection(*[EMPTY] * len(names))
    reading, _ = reader_of(connection, *names)
    await reading._read()
    assert len(connection.sent) == len(names)
