"""``memory://``: what it remembers, how much of it, and the event loops that it delivers to."""

import asyncio
import threading

import pytest

from pyramid_asgi_consumers.channels import Channels, Gap, memory
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.positions import make_id
from tests.support.channels import Memory, data, published, take


async def test_a_channel_that_nobody_uses_is_forgotten(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(memory.time, "monotonic", lambda: now)
    backend = MemoryBackend(history=5, expiry=60)
    channels = Channels(backend)
    async with channels.subscribe("used") as events:
        since = await channels.publish("unused", 1)
        for _ in range(3):
            now += 50
            await channels.publish("other", 2)
        assert set(backend._channels) == {"used", "other"}
        await channels.publish("used", 3)
        assert await data(events, 1) == [3]
    async with channels.subscribe("unused", since=since) as events:
        assert await take(events, 1) == [Gap("unused", None)]


def forgotten(backend):
    return not (backend._channels or backend._idle or backend._storing or backend._stored)


async def test_a_channel_that_nobody_published_on_goes_with_its_last_subscriber():
    backend = MemoryBackend(history=5)
    channels = Channels(backend)
    for number in range(1000):
        names = f"room:{number}", f"user:{number}"
        async with channels.subscribe(*names, presence=number), channels.subscribe(names[0]):
            assert len(backend._channels) == 2
    assert forgotten(backend) and not backend._inboxes


async def test_who_knows_where_such_a_channel_stands_loses_nothing():
    backend = MemoryBackend(history=5)
    channels = Channels(backend)
    start = make_id(backend._start("a"))
    async with channels.subscribe("a"):
        pass
    await channels.publish("a", 1)
    async with channels.subscribe("a", since=start) as events:
        await channels.publish("a", 2)
        assert await data(events, 2) == [1, 2]


async def test_a_channel_begins_anew_with_ids_that_never_were(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(memory.time, "monotonic", lambda: now)
    monkeypatch.setattr(memory, "PARTS", 1)
    backend = MemoryBackend(history=5, expiry=60)
    channels = Channels(backend)
    ids = []
    for _ in range(3):
        start = make_id(backend._start("new"))
        ids.append(await channels.publish("a", 1))
        now += 61
        await channels.publish("b", 2)
        assert "a" not in backend._channels
    assert sorted(set(ids)) == ids
    async with channels.subscribe("new", since=start) as events:
        assert await take(events, 1) == [Gap("new", None)]
    for since in ids:
        async with channels.subscribe("a", since=since) as events:
            await channels.publish("a", 3)
            gap, *_, event = await take(events, len(backend._channels["a"].rows) + 1)
            assert (gap, event.data) == (Gap("a", None), 3)


async def test_where_another_channel_stands_does_not_change_when_one_is_forgotten(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(memory.time, "monotonic", lambda: now)
    monkeypatch.setattr(memory, "hash", len, raising=False)
    backend = MemoryBackend(history=5, expiry=60)
    channels = Channels(backend)
    start = make_id(backend._start("fresh"))
    await channels.publish("a", 1)
    now += 61
    await channels.publish("fresh", 2)
    assert set(backend._channels) == {"fresh"}
    async with channels.subscribe("fresh", since=start) as events:
        assert await data(events, 1) == [2]


async def test_only_so_many_channels_are_remembered_that_nobody_subscribes_to(monkeypatch):
    monkeypatch.setattr(memory, "IDLE", 3)
    backend = MemoryBackend(history=5)
    channels = Channels(backend)
    async with channels.subscribe("used") as events:
        for number in range(10):
            await channels.publish(f"room:{number}", number)
            await channels.publish("room:2", number)
            await channels.publish("used", number)
        assert sorted(backend._channels) == ["room:2", "room:8", "room:9", "used"]
        assert await data(events, 10) == list(range(10))
    assert len(backend._idle) == 3 and "used" in backend._idle


async def test_what_is_stored_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(memory, "STORED", 10 * (memory.ROW + 1))
    backend = MemoryBackend(history=4)
    channels = Channels(backend)
    since = {name: await channels.publish(name, 0) for name in "abc"}
    for name in "abc":
        for number in 1, 2, 3:
            await channels.publish(name, number)
    kept = {name: [row[2].data for row in backend._channels[name].rows] for name in "abc"}
    assert kept == {"a": [2, 3], "b": [0, 1, 2, 3], "c": [0, 1, 2, 3]}
    async with channels.subscribe("a", since=since["a"]) as events:
        gap, *rest = await take(events, 3)
        assert (gap, [event.data for event in rest]) == (Gap("a", 1), [2, 3])
    await channels.publish("d", "x" * memory.STORED)
    assert not any(channel.rows for channel in backend._channels.values())
    assert (backend._stored, len(backend._storing)) == (0, 0)
    for number in range(9):
        await channels.publish("a", number)
    assert backend._stored == 4 * (memory.ROW + 1)


def test_a_loop_that_was_closed_is_forgotten_by_who_subscribes():
    channels = Channels(MemoryBackend())
    lost = channels.subscribe("a", presence="lost")
    asyncio.run(lost.__aenter__())

    async def subscribe():
        async with channels.subscribe("b"):
            assert await channels.present("a") == []

    asyncio.run(subscribe())


def test_a_loop_that_closed_with_subscriptions_is_forgotten():
    channels = Channels(MemoryBackend())
    loop = asyncio.new_event_loop()
    subscription = channels.subscribe("a", presence="ann")
    loop.run_until_complete(subscription.__aenter__())
    loop.close()

    async def present():
        async with channels.subscribe("a"):
            return await channels.present("a")

    assert asyncio.run(present()) == []


async def test_a_subscription_that_was_not_attached_is_detached_without_harm():
    backend = MemoryBackend()
    await backend.detach(Channels(backend).subscribe("a"))
    assert await backend.present("a") == []


def test_a_loop_that_was_closed_is_forgotten_by_who_publishes_to_it():
    backend = MemoryBackend()
    subscription = Channels(backend).subscribe("a", presence="lost")
    asyncio.run(subscription.__aenter__())
    published(backend, ("b", 0), ("a", 1))
    assert asyncio.run(Memory().is_empty(backend))


async def test_what_a_loop_that_does_not_run_cannot_hold_is_a_gap(monkeypatch):
    monkeypatch.setattr(memory, "INBOX", 3)
    backend = MemoryBackend()
    async with Channels(backend).subscribe("a") as events:
        thread = threading.Thread(
            target=published, args=(backend, *(("a", number) for number in range(8)))
        )
        thread.start()
        thread.join()
        gap, *newest = await take(events, 4)
        assert gap == Gap("a", 5)
        assert [event.data for event in newest] == [5, 6, 7]


@pytest.mark.parametrize("bound", ["INBOX", "INBOX_BYTES"])
async def test_what_such_a_loop_loses_shows_on_each_channel(monkeypatch, bound):
    monkeypatch.setattr(memory, bound, 3)
    backend = MemoryBackend()
    channels = Channels(backend)
    async with channels.subscribe("quiet") as quiet, channels.subscribe("loud") as loud:
        messages = [("quiet", 7), *(("loud", number) for number in range(5))]
        thread = threading.Thread(target=published, args=(backend, *messages))
        thread.start()
        thread.join()
        assert await take(quiet, 1) == [Gap("quiet", 1)]
        gap, *newest = await take(loud, 4)
        assert (gap, [event.data for event in newest]) == (Gap("loud", 2), [2, 3, 4])
        await channels.publish("quiet", 8)
        assert await data(quiet, 1) == [8]


async def test_an_event_that_is_longer_than_such_a_loop_may_hold_arrives(monkeypatch):
    monkeypatch.setattr(memory, "INBOX_BYTES", 3)
    async with Channels(MemoryBackend()).subscribe("a") as events:
        published(events._backend, ("a", "long"))
        assert await data(events, 1) == ["long"]
