"""What Redis holds of channels, what is foreign there, and how the backend is closed."""

import asyncio

import pytest

from pyramid_asgi_consumers.channels import Channels, Event, Gap
from pyramid_asgi_consumers.channels.events import encode
from pyramid_asgi_consumers.channels.redis import RedisBackend, session
from pyramid_asgi_consumers.exceptions import (
    ChannelsError,
    InvalidEvent,
    PublishRefused,
    PublishUnknown,
)
from tests.support.channels import SECONDS, connected, logged, outages, take, until


async def test_three_connections_serve_all_subscriptions(server):
    async with connected(server.url) as channels:

        def connections():
            # All but the test's own.
            return len(server.client.client_list()) - 1

        async with channels.subscribe("a"):
            one = server.client.info("commandstats")
            async with channels.subscribe("a"), channels.subscribe("a"):
                two = server.client.info("commandstats")
                calls = {
                    name: two[name]["calls"] - one[name]["calls"]
                    for name in two
                    if name in one and two[name]["calls"] > one[name]["calls"]
                }
                assert not {"cmdstat_subscribe", "cmdstat_xrevrange"} & set(calls)
                async with channels.subscribe(*(f"channel {number}" for number in range(600))):
                    await channels.publish("a", 1)
                    assert connections() <= 3
            assert server.client.pubsub_numsub("asgi:0:a") == [(b"asgi:0:a", 1)]
            await until(lambda: len(server.client.pubsub_channels()) == 1)
        await until(lambda: not server.client.pubsub_channels())
        await until(lambda: connections() <= 2)


async def test_channels_expire(server):
    async with connected(server.url, expiry=77) as channels:
        await channels.publish("a", 1)
        assert server.client.ttl("asgi:stream:a") == 77


async def test_what_is_not_kept_is_not_stored(server):
    async with connected(server.url) as channels:
        await channels.publish("a", "x" * 1000)
        ((_, entry),) = server.client.xrange("asgi:stream:a")
        assert entry[b"data"] == b""
    async with connected(server.url, history=3) as channels:
        for number in range(10):
            await channels.publish("a", number)
        assert server.client.xlen("asgi:stream:a") == 3


async def test_databases_do_not_mix(server):
    other = RedisBackend(server.url.replace("/0", "/1"))
    async with connected(server.url) as channels, channels.subscribe("a") as events:
        other.publish_many([("a", encode("other"))])
        await channels.publish("a", "own")
        assert (await take(events, 1))[0].data == "own"


async def test_an_epoch_is_later_than_that_before_whatever_the_clock_says(server):
    server.client.xadd("asgi:stream:a", {"life": "none"}, id="8000000000000000-7")
    async with connected(server.url, history=10) as channels, channels.subscribe("a") as events:
        await channels.publish("a", 1)
        assert (await take(events, 1))[0].id == "8000000000000001-0000000000000001"


async def test_foreign_bytes_are_logged_and_skipped(server, caplog):
    client = server.client
    async with connected(server.url, history=10) as channels:
        async with channels.subscribe("a") as events:
            for message in (b"", b"x", b"1-1 ", b"1-1 x", b"x jnull", b"1-1 j\xff"):
                client.publish("asgi:0:a", message)
            await channels.publish("a", 1)
            assert (await take(events, 1))[0].data == 1
            assert len(logged(caplog, "Skipped foreign bytes on b'asgi:0:a'")) == 6
        for fields in ({"x": "y"}, {"data": "j1", "before": "x"}, {"data": "x", "before": "0-0"}):
            client.xadd("asgi:stream:a", fields)
        await channels.publish("a", 2)
        async with channels.subscribe("a", since="never") as events:
            items = await take(events, 4)
            assert [item.data for item in items if isinstance(item, Event)] == [1, 2]
            assert len(logged(caplog, "Skipped a foreign entry in b'asgi:stream:a'")) == 3
        client.zadd("asgi:present:a", {b"foreign": 1e15, b"1:x": 1e15, b"1:j1": 1e15})
        assert await channels.present("a") == [1]


async def test_a_foreign_text_that_does_not_parse_is_an_error_of_who_asks_for_its_data(server):
    async with connected(server.url) as channels, channels.subscribe("a") as events:
        server.client.publish("asgi:0:a", b"1-1 j{")
        [event] = await take(events, 1)
        assert event.json == "{"
        with pytest.raises(InvalidEvent, match="is not JSON"):
            event.data  # noqa: B018


async def test_a_foreign_key_is_refused_at_the_publisher_and_skipped_elsewhere(server, caplog):
    for name in "asgi:stream:a", "asgi:present:a":
        server.client.set(name, "foreign")
    async with connected(server.url, history=10) as channels:
        async with channels.subscribe("a", "b", presence="ann", since={"a": "x"}) as events:
            with pytest.raises(PublishRefused, match="WRONGTYPE"):
                await channels.publish("a", 1)
            results = await asyncio.to_thread(
                channels.backend.publish_many, [("a", b"j1"), ("b", b"j2")]
            )
            assert isinstance(results[0], PublishRefused) and isinstance(results[1], str)
            gap, event = await take(events, 2)
            assert (gap, event.data) == (Gap("a", None), 2)
        with pytest.raises(ChannelsError, match="WRONGTYPE"):
            await channels.present("a")
    assert logged(caplog, "Skipped what is under b'asgi:stream:a'")
    assert outages(caplog) == (0, 0)


async def test_closing_ends_what_is_under_way(server):
    backend = RedisBackend(server.url)
    channels = Channels(backend)
    await channels.publish("a", 0)
    before = asyncio.all_tasks()
    subscription = channels.subscribe("a")
    await subscription.__aenter__()
    server.pause()
    publishing = asyncio.ensure_future(channels.publish("a", 1))
    await asyncio.sleep(0)
    await backend.aclose()
    with pytest.raises(PublishUnknown):
        await publishing
    await subscription.__aexit__(None, None, None)
    assert asyncio.all_tasks() == before


def test_what_a_loop_leaves_is_dropped_when_another_runs(server):
    backend = RedisBackend(server.url)
    for _ in range(3):
        asyncio.run(Channels(backend).publish("a", 1))
    assert len(backend._loops) == 1


async def test_what_a_replay_was_ahead_of_is_not_repeated(server, monkeypatch):
    receive = session.Session._receive
    delayed = []
    async with connected(server.url, history=10) as channels, channels.subscribe("a") as steady:
        monkeypatch.setattr(session.Session, "_receive", lambda *message: delayed.append(message))
        ids = [await channels.publish("a", number) for number in range(3)]
        async with channels.subscribe("a", since=ids[0]) as events:
            await until(lambda: len(delayed) == 3)
            monkeypatch.setattr(session.Session, "_receive", receive)
            for message in delayed:
                receive(*message)
            await channels.publish("a", 3)
            await channels.publish("a", 4)
            assert [event.data for event in await take(events, 4)] == [1, 2, 3, 4]
            assert [event.data for event in await take(steady, 5)] == [0, 1, 2, 3, 4]


async def test_what_was_published_before_is_not_for_who_subscribes_then(server, monkeypatch):
    receive = session.Session._receive
    delayed = []
    async with connected(server.url) as channels, channels.subscribe("a"):
        monkeypatch.setattr(session.Session, "_receive", lambda *message: delayed.append(message))
        await channels.publish("a", "before")
        await asyncio.to_thread(channels.backend.publish_many, [("a", encode("before"))])
        async with channels.subscribe("a") as events:
            await until(lambda: len(delayed) == 2)
            monkeypatch.setattr(session.Session, "_receive", receive)
            for message in delayed:
                receive(*message)
            await channels.publish("a", "after")
            assert (await take(events, 1))[0].data == "after"


async def test_what_is_stored_but_not_sent_is_not_refused(server):
    server.client.acl_setuser(
        "app", enabled=True, passwords=["+pw"], keys=["asgi:*"], categories=["+@all"]
    )
    url = server.url.replace("redis://", "redis://app:pw@")
    async with connected(url, history=1000) as channels:
        backend = channels.backend
        (stored,) = await asyncio.to_thread(backend.publish_many, [("a", b"j1")])
        assert isinstance(stored, PublishUnknown) and "STORED" in str(stored)
        with pytest.raises(PublishUnknown, match="STORED"):
            await channels.publish("a", 2)
    assert server.client.xlen("asgi:stream:a") == 2


async def test_subscriptions_end_when_the_channels_are_closed(server):
    async with connected(server.url, history=1000) as channels:
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
