"""Redis goes, and comes back: what is published meanwhile arrives, or is in a gap."""

import asyncio
import threading
import time

import pytest

from pyramid_asgi_consumers.channels import Event, Gap
from pyramid_asgi_consumers.channels.events import encode
from pyramid_asgi_consumers.channels.redis import RedisBackend, hub, session
from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused, PublishUnknown
from tests.support.channels import connected, outages, take, the_loop, until

EVENTS = 1000


async def publish_numbers(channels, fate, numbers, pause=None):
    """Publish numbers; note of each whether it was published, refused or nobody knows."""
    for number in numbers:
        try:
            await channels.publish("a", number)
            fate[number] = None
        except ChannelsError as error:
            fate[number] = type(error)
            await asyncio.sleep(0.002)
        if pause is not None:
            await pause(number)


def next_item(items, number):
    """What comes behind the last event before ``number``."""
    before = [at for at, item in enumerate(items) if isinstance(item, Event) and item.data < number]
    after = items[before[-1] + 1 if before else 0 :]
    return after[0] if after else None


def check(fate, items):
    """Every number was delivered once, is in a gap, was refused, or nobody knows."""
    delivered = [item.data for item in items if isinstance(item, Event)]
    gaps = [item.missed for item in items if isinstance(item, Gap)]
    assert sorted(set(delivered)) == delivered
    assert not [number for number in delivered if fate[number] is PublishRefused]
    lost = [n for n, end in fate.items() if end is None and n not in delivered]
    # Beyond them a gap may hold those of which nobody knows.
    most = len(lost) + sum(end is PublishUnknown for end in fate.values())
    assert None in gaps or len(lost) <= sum(gaps) <= most
    following = {number: next_item(items, number) for number in fate}
    assert all(isinstance(following[number], Gap) for number in lost)
    return lost, gaps


async def collect(events, items, last):
    while not (items and isinstance(items[-1], Event) and items[-1].data == last):
        items += await take(events, 1)


async def through_an_outage(server, channels, stop, start):
    """Publish a thousand numbers through an outage; return the fate of each and what arrived."""
    fate = {}

    async def pause(number):
        if number == 300:
            await asyncio.to_thread(stop)
        if number == 500:
            await asyncio.to_thread(start)

    async with channels.subscribe("a", max_queue=EVENTS) as events:
        numbers = range(EVENTS)
        publishing = asyncio.ensure_future(publish_numbers(channels, fate, numbers, pause))
        items = []
        await publishing
        await publish_numbers(channels, fate, ["last"])
        await collect(events, items, "last")
    assert fate.pop("last") is None
    assert items.pop().data == "last"
    assert len(fate) == EVENTS and PublishRefused in fate.values()
    return fate, items


async def test_a_restart_with_its_data_loses_nothing(server, caplog):
    async with connected(server.url, history=2 * EVENTS) as channels:
        fate, items = await through_an_outage(server, channels, server.stop, server.start)
        assert check(fate, items) == ([], [])
    assert outages(caplog) == (1, 1)


async def test_a_restart_with_less_history_is_a_gap_for_what_is_not_held(server, caplog):
    async with connected(server.url, history=5) as channels:
        fate, items = await through_an_outage(server, channels, server.stop, server.start)
        check(fate, items)
    assert outages(caplog) == (1, 1)


async def test_a_restart_without_its_data_is_a_gap(server, caplog):
    def stop():
        server.stop(keep=False)

    async with connected(server.url, history=2 * EVENTS) as channels:
        fate, items = await through_an_outage(server, channels, stop, server.start)
        lost, gaps = check(fate, items)
        assert gaps == [None]
    assert outages(caplog) == (1, 1)


async def test_a_server_that_is_killed_is_come_back_to(server, caplog):
    async with connected(server.url, history=2 * EVENTS) as channels:
        fate, items = await through_an_outage(server, channels, server.kill, server.start)
        check(fate, items)
    assert outages(caplog) == (1, 1)


async def test_numbers_that_are_given_out_again_are_seen(server, caplog):
    """The server comes back with data that is older than what subscribers have seen."""
    async with connected(server.url, history=100) as channels:
        async with channels.subscribe("a") as events:
            for number in range(5):
                await channels.publish("a", number)
            server.client.save()
            for number in range(5, 10):
                seen = await channels.publish("a", number)
            await take(events, 10)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            # As many as were lost, before the subscriber is back.
            await asyncio.to_thread(
                channels.backend.publish_many, [("a", encode(number)) for number in range(20, 25)]
            )
            await until(lambda: outages(caplog) == (1, 1))
            gap, *fresh = await take(events, 6)
            assert gap == Gap("a", None)
            assert [event.data for event in fresh] == [20, 21, 22, 23, 24]
        async with channels.subscribe("a", since=seen) as events:
            assert await take(events, 6) == [gap, *fresh]


async def test_a_connection_that_breaks_is_resumed_without_a_gap(server, caplog):
    async with connected(server.url, history=100) as channels:
        async with channels.subscribe("a", "idle", "new") as events, channels.subscribe("b"):
            await channels.publish("a", 0)
            for _ in range(3):
                server.client.client_kill_filter(_type="pubsub")
                for number in range(5):
                    await channels.publish("a", number)
                await channels.publish("new", "first")
                await until(lambda: outages(caplog)[0] == outages(caplog)[1] > 0)
                caplog.clear()
            items = await take(events, 19)
            assert all(isinstance(item, Event) for item in items)
            assert [item.data for item in items if item.channel == "a"] == [0, *range(5)] + [
                *range(5)
            ] * 2


class Refused:
    async def connect(self):
        raise ConnectionRefusedError

    async def disconnect(self, nowait):
        """It was never made."""


async def test_an_outage_may_last_for_hours(server, monkeypatch, caplog):
    monkeypatch.setattr(hub, "BACKOFF", (1e-9, 1e-9))
    refused = iter([Refused()] * 1100)
    async with connected(server.url) as channels, channels.subscribe("a") as events:
        connections = the_loop(channels).connections
        make = connections.make
        monkeypatch.setattr(connections, "make", lambda: next(refused, None) or make())
        server.client.client_kill_filter(_type="pubsub")
        await until(lambda: outages(caplog) == (1, 1))
        assert next(refused, None) is None
        await channels.publish("a", 1)
        assert (await take(events, 1))[0].data == 1


async def test_what_breaks_again_and_again_is_tried_again_later(server, monkeypatch, caplog):
    monkeypatch.setattr(hub, "BACKOFF", (0.1, 1.0))
    monkeypatch.setattr(hub, "BEAT", 1e6)
    monkeypatch.setattr(session, "BEAT", 1e6)
    pauses = []
    monkeypatch.setattr(hub.random, "uniform", lambda least, most: pauses.append(most) or 0)
    async with connected(server.url) as channels, channels.subscribe("a"):
        for number in range(1, 8):
            if number == 6:
                # As if it had lasted.
                the_loop(channels).hub._in_touch -= 1e6
            server.client.client_kill_filter(_type="pubsub")
            await until(lambda number=number: outages(caplog) == (number, number))
    assert pauses == [0.2, 0.4, 0.8, 1.0, 1.0, 0.2, 0.4]


async def test_without_history_a_gap_counts_what_a_broken_connection_missed(server, caplog):
    async with connected(server.url) as channels, channels.subscribe("a") as events:
        await channels.publish("a", 0)
        await take(events, 1)
        server.client.client_kill_filter(_type="pubsub")
        await until(lambda: outages(caplog)[0] == 1)
        for number in range(3):
            await channels.publish("a", number)
        items = []
        while (
            len([item for item in items if isinstance(item, Event)])
            + sum(item.missed for item in items if isinstance(item, Gap))
            < 3
        ):
            items += await take(events, 1)


async def test_redis_may_be_down_at_the_start(server, caplog):
    server.stop()
    async with connected(server.url, history=10) as channels:
        with pytest.raises(PublishRefused, match="cannot be reached"):
            await channels.publish("a", 1)
        with pytest.raises(ChannelsError, match="'a' is unknown"):
            await channels.present("a")
        since = {"b": "lost"}
        async with channels.subscribe("a", "b", since=since, presence="ann") as events:
            await asyncio.to_thread(server.start)
            assert sorted(await take(events, 2), key=repr) == [Gap("a", None), Gap("b", None)]
            await channels.publish("a", 2)
            assert (await take(events, 1))[0].data == 2
            await until(lambda: server.client.zcard("asgi:present:a"))
            assert await channels.present("a") == ["ann"]
    assert outages(caplog) == (1, 1)


async def test_a_server_that_hangs_costs_a_publisher_the_timeout(server):
    async with connected(server.url, timeout=0.3, history=10) as channels:
        async with channels.subscribe("a") as events:
            await channels.publish("a", 0)
            await take(events, 1)
            server.pause()
            results = await asyncio.gather(
                *(channels.publish("a", number) for number in range(1, 4)), return_exceptions=True
            )
            assert {type(result) for result in results} == {PublishUnknown}
            with pytest.raises((PublishRefused, PublishUnknown)):
                await channels.publish("a", 4)
            with pytest.raises((PublishRefused, PublishUnknown)):
                await channels.publish("a", 5)
            server.resume()
            await channels.publish("a", "end")
            items = []
            await collect(events, items, "end")
            numbers = [item.data for item in items[:-1]]
            assert sorted(set(numbers)) == numbers


async def test_what_waits_behind_a_hanging_server_was_certainly_not_sent(server):
    async with connected(server.url, timeout=0.5, history=10) as channels:
        async with channels.subscribe("a") as events:
            await channels.publish("a", 0)
            server.pause()
            first = asyncio.ensure_future(channels.publish("a", 1))
            await asyncio.sleep(0.3)
            second = asyncio.ensure_future(channels.publish("a", 2))
            third = asyncio.ensure_future(channels.publish("a", 3))
            await asyncio.sleep(0)
            third.cancel()
            with pytest.raises(PublishUnknown, match="unknown"):
                await first
            server.resume()
            with pytest.raises(asyncio.CancelledError):
                await third
            ends = await asyncio.gather(second, return_exceptions=True)
            await channels.publish("a", "end")
            items = []
            await collect(events, items, "end")
            numbers = {item.data for item in items if isinstance(item, Event)}
            assert 3 not in numbers
            assert (2 in numbers) is isinstance(ends[0], str)


async def test_a_thread_publishes_no_second_copy(server):
    async with connected(server.url, history=EVENTS) as channels:
        backend = RedisBackend(server.url, history=EVENTS, timeout=2.0)
        fate = {}

        def publish():
            for number in range(EVENTS):
                (result,) = backend.publish_many([("a", encode(number))])
                fate[number] = None if isinstance(result, str) else type(result)
                # As slow as a thread that does something else too.
                time.sleep(0.001)

        async with channels.subscribe("a", max_queue=EVENTS) as events:
            thread = threading.Thread(target=publish)
            thread.start()
            await until(lambda: len(fate) > 200)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(thread.join)
            await channels.publish("a", "last")
            items = []
            await collect(events, items, "last")
        assert check(fate, items[:-1]) == ([], [])
