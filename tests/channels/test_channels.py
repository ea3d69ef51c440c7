"""What every backend of the channels does, and what they share."""

import asyncio
import copy
import pickle
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from functools import partial
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_asgi_consumers.channels import Channels, Event, Gap, base, memory
from pyramid_asgi_consumers.channels.base import (
    NOWHERE,
    Feed,
    catch_up,
    decode,
    encode,
    make_event,
    make_id,
    position_of,
)
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import RedisBackend
from pyramid_asgi_consumers.exceptions import ChannelsError, InvalidEvent, SubscriptionOverflow

SECONDS = 20
modest = settings(deadline=None, max_examples=100)


class Memory:
    def make(self, **options):
        return MemoryBackend(**options)

    async def is_empty(self, backend):
        return not backend._inboxes and not any(
            channel.feeds or channel.members for channel in backend._channels.values()
        )


class Redis:
    def __init__(self, server):
        self.server = server

    def make(self, **options):
        return RedisBackend(self.server.url, prefix=f"{uuid4()}:", **options)

    async def is_empty(self, backend):
        client = self.server.client
        return not client.keys(backend.keys.members("*")) and not client.pubsub_channels(
            backend.keys.redis_channel("*")
        )


@pytest.fixture(params=[Memory, pytest.param(Redis, marks=pytest.mark.redis)])
def kind(request):
    if request.param is Memory:
        return Memory()
    return Redis(request.getfixturevalue("redis_server"))


@asynccontextmanager
async def made(kind, **options):
    channels = Channels(kind.make(**options))
    try:
        yield channels
    finally:
        await channels.backend.aclose()


async def take(events, count):
    async def taken():
        return [await events.__anext__() for _ in range(count)]

    return await asyncio.wait_for(taken(), SECONDS)


async def data(events, count):
    return [event.data for event in await take(events, count)]


async def eventually(condition):
    deadline = asyncio.get_running_loop().time() + SECONDS
    holds = False
    while not holds:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
        holds = await condition()


def published(backend, *messages):
    return backend.publish_many([(name, encode(content)) for name, content in messages])


# Publish and subscribe.


@pytest.mark.parametrize(
    "content, text",
    [
        ({"a": [1, 2.5, None, True], "é": "\u20ac"}, '{"a":[1,2.5,null,true],"é":"\u20ac"}'),
        ("text", '"text"'),
        ("", '""'),
        (0, "0"),
        (None, "null"),
        (b"\x00\xff j", None),
        (b"", None),
    ],
)
async def test_what_is_published_arrives(kind, content, text):
    async with made(kind) as channels, channels.subscribe("a\n\u20ac") as events:
        event_id = await channels.publish("a\n\u20ac", content)
        assert await take(events, 1) == [Event("a\n\u20ac", event_id, content, text)]


async def test_what_other_types_of_bytes_hold_arrives_as_bytes(kind):
    async with made(kind) as channels, channels.subscribe("a") as events:
        await channels.publish("a", bytearray(b"x"))
        await channels.publish("a", memoryview(b"y"))
        assert await data(events, 2) == [b"x", b"y"]


async def test_a_subscriber_gets_what_is_published_while_it_subscribes(kind):
    async with made(kind) as channels, channels.subscribe("a"):
        await channels.publish("a", "before")
        async with channels.subscribe("a") as events:
            await channels.publish("other", "elsewhere")
            await channels.publish("a", "within")
            assert await data(events, 1) == ["within"]
        await channels.publish("a", "after")
        with pytest.raises(StopAsyncIteration):
            await events.__anext__()


async def test_all_subscribers_get_the_same_event(kind):
    async with made(kind) as channels:
        async with channels.subscribe("a") as first, channels.subscribe("a") as second:
            await channels.publish("a", {"once": "decoded"})
            [one], [other] = await take(first, 1), await take(second, 1)
            assert one is other


async def test_events_of_a_channel_arrive_in_order(kind):
    async with made(kind) as channels, channels.subscribe("a", "b", "a") as events:
        for number in range(100):
            await channels.publish("ab"[number % 2], number)
        arrived = await take(events, 100)
    for name, first in ("a", 0), ("b", 1):
        of_one = [event for event in arrived if event.channel == name]
        assert [event.data for event in of_one] == list(range(first, 100, 2))
        assert sorted(event.id for event in of_one) == [event.id for event in of_one]


async def test_a_publisher_that_awaits_nothing_else_leaves_subscribers_their_turn(kind):
    async with made(kind) as channels, channels.subscribe("a", max_queue=10) as events:

        async def publish():
            for number in range(300):
                await channels.publish("a", number)

        task = asyncio.ensure_future(publish())
        assert await data(events, 300) == list(range(300))
        await task


async def test_publishing_is_possible_from_threads(kind):
    async with made(kind) as channels, channels.subscribe("a") as events:
        messages = [("a", number) for number in range(500)]

        def publish():
            ids.extend(published(channels.backend, *messages[:250]))
            for message in messages[250:]:
                ids.extend(published(channels.backend, message))

        ids = []
        thread = threading.Thread(target=publish)
        thread.start()
        arrived = await take(events, 500)
        thread.join()
        assert [event.data for event in arrived] == list(range(500))
        assert [event.id for event in arrived] == ids


async def test_threads_and_the_loop_publish_in_one_order(kind):
    async with made(kind) as channels, channels.subscribe("a") as events:
        threads = [
            threading.Thread(
                target=lambda: [published(channels.backend, ("a", 1)) for _ in "x" * 99]
            )
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for _ in range(99):
            await channels.publish("a", 2)
        arrived = await take(events, 4 * 99)
        for thread in threads:
            thread.join()
        ids = [event.id for event in arrived]
        assert ids == sorted(set(ids))


async def test_what_a_thread_published_before_is_not_for_who_subscribes_then(kind):
    async with made(kind) as channels, channels.subscribe("a") as first:
        thread = threading.Thread(target=published, args=(channels.backend, ("a", "before")))
        thread.start()
        thread.join()
        async with channels.subscribe("a") as events:
            await channels.publish("a", "after")
            assert await data(events, 1) == ["after"]
        assert await data(first, 2) == ["before", "after"]


def test_each_loop_has_subscriptions_of_its_own(kind):
    backend = kind.make()
    channels = Channels(backend)
    subscribed = threading.Barrier(4, timeout=SECONDS)
    arrived = []

    async def subscribe():
        async with channels.subscribe("a") as events:
            await asyncio.to_thread(subscribed.wait)
            arrived.append(await data(events, 3))
        await backend.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(subscribe(),)) for _ in range(2)]

    async def publish():
        async with channels.subscribe("a") as events:
            await asyncio.to_thread(subscribed.wait)
            published_ids = [await channels.publish("a", number) for number in range(3)]
            assert [event.id for event in await take(events, 3)] == published_ids

    threads.append(threading.Thread(target=asyncio.run, args=(publish(),)))
    for thread in threads:
        thread.start()
    subscribed.wait()
    for thread in threads:
        thread.join()
    assert arrived == [[0, 1, 2]] * 2


def test_a_loop_may_close_with_a_subscription_alive(kind):
    backend = kind.make()
    channels = Channels(backend)
    subscription = channels.subscribe("a", "b", presence="lost")
    asyncio.run(subscription.__aenter__())

    async def publish():
        async with channels.subscribe("b") as events:
            published(backend, ("a", 0), ("b", 1))
            await channels.publish("a", 2)
            await channels.publish("b", 3)
            assert await data(events, 2) == [1, 3]

    published(backend, ("a", -1))
    asyncio.run(publish())


# History.


async def test_what_was_missed_is_replayed(kind):
    async with made(kind, history=10) as channels:
        ids = [await channels.publish("a", number) for number in range(5)]
        async with channels.subscribe("a", since=ids[1]) as events:
            await channels.publish("a", 5)
            assert await data(events, 4) == [2, 3, 4, 5]


async def test_each_channel_is_replayed_from_where_it_was_left(kind):
    async with made(kind, history=10) as channels:
        ids = {}
        for number in range(4):
            for name in "abc":
                ids[name, number] = await channels.publish(name, number)
        since = {"a": ids["a", 2], "b": ids["b", 0], "d": "not subscribed"}
        async with channels.subscribe("a", "b", "c", since=since) as events:
            arrived = await take(events, 4)
            assert sorted((event.channel, event.data) for event in arrived) == [
                ("a", 3),
                ("b", 1),
                ("b", 2),
                ("b", 3),
            ]


async def test_a_replay_may_be_longer_than_the_queue(kind):
    async with made(kind, history=50) as channels:
        ids = [await channels.publish("a", number) for number in range(50)]
        options = {"since": ids[9], "max_queue": 1, "overflow": "close"}
        async with channels.subscribe("a", **options) as events:
            assert await data(events, 40) == list(range(10, 50))


async def test_a_gap_counts_what_was_trimmed(kind):
    async with made(kind, history=2) as channels:
        ids = [await channels.publish("a", number) for number in range(6)]
        async with channels.subscribe("a", since=ids[1]) as events:
            gap, *kept = await take(events, 3)
            assert gap == Gap("a", 2)
            assert [event.data for event in kept] == [4, 5]


async def test_the_newest_id_replays_nothing(kind):
    async with made(kind, history=2) as channels:
        await channels.publish("a", 0)
        newest = await channels.publish("a", 1)
        async with channels.subscribe("a", since=newest) as events:
            await channels.publish("a", 2)
            assert await data(events, 1) == [2]


@pytest.mark.parametrize(
    "since", ["", "x", "\u0661", make_id((1, 1)), make_id((10**16 - 1, 10**16 - 1)), "1-1\n"]
)
async def test_an_id_that_never_was_replays_everything_after_a_gap(kind, since):
    async with made(kind, history=2) as channels:
        for number in range(3):
            await channels.publish("a", number)
        async with channels.subscribe("a", since=since) as events:
            gap, *kept = await take(events, 3)
            assert gap == Gap("a", None)
            assert [event.data for event in kept] == [1, 2]
            await channels.publish("a", 3)
            assert await data(events, 1) == [3]


async def test_a_later_number_than_the_newest_never_was(kind):
    async with made(kind, history=2) as channels:
        epoch, number = position_of(await channels.publish("a", 0))
        async with channels.subscribe("a", since=make_id((epoch, number + 5))) as events:
            gap, kept = await take(events, 2)
            assert (gap, kept.data) == (Gap("a", None), 0)


async def test_an_id_of_an_empty_channel_is_followed_by_a_gap(kind):
    async with made(kind, history=2) as channels:
        async with channels.subscribe("a", since=make_id((5, 5))) as events:
            await channels.publish("a", 0)
            gap, event = await take(events, 2)
            assert (gap, event.data) == (Gap("a", None), 0)


async def test_without_history_a_gap_counts_what_was_missed(kind):
    async with made(kind) as channels:
        ids = [await channels.publish("a", number) for number in range(3)]
        async with channels.subscribe("a", since=ids[0]) as events:
            assert await take(events, 1) == [Gap("a", 2)]
        async with channels.subscribe("a", since=ids[2]) as events:
            await channels.publish("a", 3)
            assert await data(events, 1) == [3]


async def test_replay_and_live_have_neither_hole_nor_repeat(kind):
    async with made(kind, history=1000) as channels:
        ids = [await channels.publish("a", 0)]

        async def publish():
            for number in range(1, 400):
                ids.append(await channels.publish("a", number))

        async def follow(start):
            options = {"since": ids[start], "max_queue": 1000}
            async with channels.subscribe("a", **options) as events:
                return await data(events, 399 - start)

        publishing = asyncio.ensure_future(publish())
        following = []
        for start in range(0, 350, 10):
            while len(ids) <= start + 3:
                await asyncio.sleep(0)
            following.append((start, asyncio.ensure_future(follow(start))))
        await publishing
        for start, task in following:
            assert await task == list(range(start + 1, 400))


# Slow subscribers.


async def test_the_oldest_give_way_to_a_gap(kind):
    async with made(kind) as channels:
        async with channels.subscribe("a", max_queue=3) as slow, channels.subscribe("a") as quick:
            for number in range(10):
                await channels.publish("a", number)
            assert await data(quick, 10) == list(range(10))
            gap, *newest = await take(slow, 4)
            assert gap == Gap("a", 7)
            assert [event.data for event in newest] == [7, 8, 9]
            assert channels.overflows.total == 7
            await channels.publish("a", 10)
            assert await data(slow, 1) == [10]


async def test_each_channel_has_its_own_gap(kind):
    async with made(kind) as channels, channels.subscribe("a", "b", max_queue=2) as slow:
        async with channels.subscribe("a") as a, channels.subscribe("b") as b:
            for name in "aabab":
                await channels.publish(name, name)
            await take(a, 3)
            await take(b, 2)
        arrived = await take(slow, 4)
        assert sorted(repr(item) for item in arrived[:2]) == [repr(Gap("a", 2)), repr(Gap("b", 1))]


async def test_a_slow_subscription_may_be_closed(kind):
    async with made(kind) as channels, channels.subscribe("a") as quick:
        options = {"max_queue": 2, "overflow": "close"}
        async with channels.subscribe("a", "b", **options) as slow:
            for number in range(5):
                await channels.publish("a", number)
            await take(quick, 5)
            for _ in range(2):
                with pytest.raises(SubscriptionOverflow, match="2 events .* 'a, b'") as caught:
                    await take(slow, 1)
                assert (caught.value.channels, caught.value.max_queue) == (("a", "b"), 2)


LONG = "x" * 998


async def test_what_waits_is_bounded_in_bytes_too(kind):
    async with made(kind) as channels, channels.subscribe("a") as quick:
        async with channels.subscribe("a", max_bytes=3000) as slow:
            for number in range(5):
                await channels.publish("a", LONG)
                await channels.publish("a", number)
            await take(quick, 10)
            gap, *newest = await take(slow, 6)
            assert gap == Gap("a", 5)
            assert [event.data for event in newest] == [2, LONG, 3, LONG, 4]
            for _ in range(3):
                await channels.publish("a", LONG)
            assert await data(slow, 3) == [LONG] * 3
            assert channels.overflows.total == 5


async def test_bytes_and_characters_count_as_they_are_sent(kind):
    async with made(kind) as channels, channels.subscribe("a") as quick:
        async with channels.subscribe("a", max_bytes=12) as slow:
            for content in b"123456", "\u20ac\u20ac", b"7":
                await channels.publish("a", content)
            await take(quick, 3)
            assert [item.size for item in await take(slow, 3)] == [0, 8, 1]


async def test_an_event_that_is_longer_than_what_may_wait_is_a_gap(kind):
    async with made(kind) as channels, channels.subscribe("a") as other:
        for overflow in "drop_oldest", "close":
            options = {"max_bytes": 100, "overflow": overflow}
            async with channels.subscribe("a", **options) as events:
                for content in 1, LONG, 2:
                    await channels.publish("a", content)
                first, gap, last = await take(events, 3)
                assert (first.data, gap, last.data) == (1, Gap("a", 1), 2)
        assert await data(other, 6) == [1, LONG, 2] * 2
        assert channels.overflows.total == 2


async def test_a_subscription_may_be_closed_for_its_bytes(kind):
    async with made(kind) as channels, channels.subscribe("a") as quick:
        options = {"max_bytes": 2500, "overflow": "close"}
        async with channels.subscribe("a", **options) as slow:
            for content in LONG, LONG, LONG, LONG * 3:
                await channels.publish("a", content)
            await take(quick, 4)
            with pytest.raises(SubscriptionOverflow, match="2500 bytes .* 'a'") as caught:
                await take(slow, 1)
            assert (caught.value.max_queue, caught.value.max_bytes) == (1000, 2500)
            assert channels.overflows.total == 1


# Events.


def raw(text):
    return make_event("a", (1, 1), b"j" + text)


@pytest.mark.parametrize("text", [b"{", b"", b"[" * 100_000, b'"\n"'])
def test_a_foreign_text_that_does_not_parse_says_so_when_it_is_asked(text):
    event = raw(text)
    assert event.json == text.decode()
    for _ in range(2):
        with pytest.raises(InvalidEvent, match="-0000000000000001 of the channel 'a' is not JSON"):
            event.data  # noqa: B018


def test_an_event_is_parsed_once():
    event = raw(b"[[]]")
    assert event.data is event.data
    assert Event.data.__get__(event, Event) is event.data


def test_the_oldest_events_are_parsed_again(monkeypatch):
    monkeypatch.setattr(base, "MOST_PARSED", 12)
    monkeypatch.setattr(base, "PARSED", 0)
    monkeypatch.setattr(Event, "data", base._Parsed())
    events = [raw(b"[[[]]]") for _ in range(3)]
    oldest, middle, _ = [event.data for event in events]
    assert (oldest, middle) == ([[[]]], [[[]]])
    assert events[1].data is middle and events[2].data is events[2].data
    assert events[0].data is not oldest and events[0].data == oldest
    raw(b"[1,2]").data  # noqa: B018
    long = raw(b"[1,2,3,4,5,6,7,8,9]")
    assert long.data is long.data
    assert events[0].data == oldest


READ = """
import sys, tracemalloc
from pyramid_asgi_consumers.channels.base import make_event

tracemalloc.start()
for number in range(60_000):
    make_event("a", (1, number), b"j1").data
print(tracemalloc.get_traced_memory()[0])
"""


def test_events_that_were_read_and_are_gone_cost_no_more_than_those_that_are_not():
    command = [sys.executable, "-c", READ]
    found = subprocess.run(command, check=True, capture_output=True, timeout=60)
    # 21,000 of them are remembered, with a weak reference, a tuple and a number each.
    assert 1_000_000 < int(found.stdout) < 2 * base.MOST_PARSED


def test_what_interrupts_the_parsing_of_an_event_parses_its_own(monkeypatch):
    parsed = base._Parsed()
    monkeypatch.setattr(Event, "data", parsed)
    event, other = raw(b"[1]"), raw(b"[2]")
    found = []

    class Interrupts(list):
        def append(self, entry):
            found.append(other.data)
            super().append(entry)

    parsed._events = Interrupts()
    assert event.data is event.data
    assert found == [[2]] and other.data is not found[0]


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda item: pickle.loads(pickle.dumps(item))],
    ids=["copy", "deepcopy", "pickle"],
)
@pytest.mark.parametrize(
    "item",
    [make_event("a", (1, 2), b'j{"a":1}'), make_event("a", (1, 2), b"b\x00"), Gap("a", 1)],
    ids=["text", "bytes", "gap"],
)
def test_events_and_gaps_are_copied_and_pickled(copied, item):
    copy_of_it = copied(item)
    assert copy_of_it == item and type(copy_of_it) is type(item)
    assert copy_of_it.size == item.size and hash(copy_of_it) == hash(item)
    assert getattr(copy_of_it, "data", None) == getattr(item, "data", None)


def test_an_event_is_not_changed():
    event = raw(b"1")
    for name in "data", "channel":
        with pytest.raises(AttributeError, match=f"'{name}'"):
            setattr(event, name, 2)
        with pytest.raises(AttributeError, match=f"'{name}'"):
            delattr(event, name)


def test_events_are_equal_where_their_text_is():
    event = raw(b'{"a":1}')
    same = Event("a", event.id, {"a": 1}, '{"a":1}')
    assert event == same and hash(event) == hash(same) and event.size == same.size
    assert event != Event("a", event.id, {"a": 2}, '{"a":2}')
    assert event != Event("b", event.id, {"a": 1}, '{"a":1}')
    assert event != make_event("a", (1, 1), b"b{}")
    assert Event("a", event.id, b"1", None) == make_event("a", (1, 1), b"b1")
    assert Event("a", event.id, b"1", None) != make_event("a", (1, 1), b"b2")
    assert event != (event.channel, event.id)
    assert repr(same) == f"Event(channel='a', id='{event.id}', json='{{\"a\":1}}')"
    assert repr(make_event("a", (1, 1), b"b1")).endswith(", data=b'1')")


def test_an_event_without_text_holds_bytes():
    with pytest.raises(TypeError, match="must be bytes, not dict"):
        Event("a", "1", {}, None)


WAITING = """
import asyncio, sys, tracemalloc
from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.memory import MemoryBackend

async def main():
    channels = Channels(MemoryBackend(history=10))
    data = [[] for _ in range(350_000)]
    slow = [channels.subscribe("a") for _ in range(50)]
    for subscription in slow:
        await subscription.__aenter__()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    async with channels.subscribe("a") as quick:
        for _ in range(int(sys.argv[1])):
            await channels.publish("a", data)
            event = await quick.__anext__()
            if sys.argv[2] == "read":
                assert event.data == data
            del event
    print((tracemalloc.get_traced_memory()[0] - before) / len("[],") / len(data))
    for subscription in slow:
        await subscription.__aexit__()

asyncio.run(main())
"""


def texts_that_wait(events, use):
    """Return the memory of events that wait in 50 queues, in lengths of the text of one."""
    command = [sys.executable, "-c", WAITING, str(events), use]
    return float(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


def test_what_waits_in_many_queues_costs_one_text():
    assert 0.9 < texts_that_wait(1, "keep") < 1.2


def test_what_others_have_read_does_not_wait_parsed():
    # The newest 4 MiB may be parsed, at most, which take 25 times as much.
    assert 9 < texts_that_wait(10, "read") < 10 + 4 * 30


async def test_what_is_lost_is_logged_once_a_minute(monkeypatch, caplog):
    now = 1000.0
    monkeypatch.setattr(base.time, "monotonic", lambda: now)
    overflows = base.Overflows()
    for _ in range(5):
        overflows.count(("a", "b"))
    now += 61
    overflows.count(("c",))
    assert [record.getMessage() for record in caplog.records] == [
        "Slow subscribers lost 1 events since this was last logged, one of them of 'a, b'",
        "Slow subscribers lost 5 events since this was last logged, one of them of 'c'",
    ]
    assert overflows.total == 6


def queue_of(*items, max_queue):
    channels = Channels(MemoryBackend())
    subscription = channels.subscribe("a", max_queue=max_queue)
    for item in items:
        subscription.put(item)
    return subscription


async def test_gaps_that_give_way_are_counted(monkeypatch):
    event = make_event("a", (1, 1), b"j1")
    slow = queue_of(Gap("a", 3), event, event, max_queue=1)
    assert [await slow.__anext__(), await slow.__anext__()] == [Gap("a", 4), event]
    slow = queue_of(Gap("a", None), event, event, max_queue=1)
    assert [await slow.__anext__(), await slow.__anext__()] == [Gap("a", None), event]


# Presence.


async def test_who_is_present_is_known_while_they_subscribe(kind):
    async with made(kind) as channels:
        assert await channels.present("a") == []
        async with channels.subscribe("a", "b", presence="ann"):
            async with channels.subscribe("a", presence={"id": 7}), channels.subscribe("a"):
                assert sorted(await channels.present("a"), key=repr) == ["ann", {"id": 7}]
                assert await channels.present("b") == ["ann"]
            assert await channels.present("a") == ["ann"]
        assert await channels.present("a") == await channels.present("b") == []


async def test_a_member_that_subscribes_twice_is_present_once(kind):
    async with made(kind) as channels:
        async with channels.subscribe("a", presence="ann"):
            async with channels.subscribe("a", presence="ann"):
                assert await channels.present("a") == ["ann"]
            assert await channels.present("a") == ["ann"]
        assert await channels.present("a") == []


# The end of a subscription.


@pytest.mark.parametrize("end", ["return", "error", "cancel"])
async def test_a_subscription_that_ends_leaves_nothing(kind, end):
    async with made(kind, history=3) as channels:
        since = await channels.publish("a", 0)
        before = asyncio.all_tasks()

        async def subscribe():
            async with channels.subscribe("a", "b", presence="ann", since={"a": since}) as events:
                await channels.publish("a", 1)
                await take(events, 1)
                if end == "error":
                    raise LookupError
                if end == "cancel":
                    asyncio.current_task().cancel()
                    await take(events, 1)

        task = asyncio.ensure_future(subscribe())
        await asyncio.wait([task], timeout=SECONDS)
        assert task.done() and task.cancelled() == (end == "cancel")
        assert task.cancelled() or isinstance(task.exception(), LookupError) == (end == "error")
        assert asyncio.all_tasks() == before
        await eventually(lambda: kind.is_empty(channels.backend))


async def interrupted(coroutine, step):
    """Await ``coroutine``, cancelled when it waits for the ``step``th time; return its steps."""
    return await Interrupted(coroutine, step)


class Interrupted:
    def __init__(self, coroutine, step):
        self.coroutine = coroutine
        self.step = step

    def __await__(self):
        resume = partial(self.coroutine.send, None)
        step = 0
        while True:
            try:
                future = resume()
            except StopIteration:
                return step
            step += 1
            if step == self.step:
                asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
            try:
                yield future
                resume = partial(self.coroutine.send, None)
            except asyncio.CancelledError as error:
                resume = partial(self.coroutine.throw, error)


async def test_a_cancellation_at_any_moment_leaves_nothing(kind):
    async with made(kind, history=3) as channels:
        since = await channels.publish("a", 0)
        before = asyncio.all_tasks()

        async def subscribe():
            async with channels.subscribe("a", "b", presence="ann", since={"a": since}) as events:
                await channels.publish("a", 1)
                await take(events, 1)

        step, ended = 0, False
        while not ended:
            step += 1
            task = asyncio.ensure_future(interrupted(subscribe(), step))
            await asyncio.wait([task], timeout=SECONDS)
            # The end of wait_for, in the test itself, may pass over a cancellation.
            # A word to Redis that somebody left goes on its way all the same.
            ended = not task.cancelled() and task.result() < step

            async def nothing_runs():
                return asyncio.all_tasks() == before

            await eventually(nothing_runs)
            await eventually(lambda: kind.is_empty(channels.backend))


async def test_others_are_not_disturbed_by_who_comes_and_goes(kind):
    async with made(kind) as channels, channels.subscribe("a") as steady:

        async def visit(number):
            async with channels.subscribe("a") as events:
                own = await channels.publish("a", number)
                while (await take(events, 1))[0].id != own:
                    pass

        async def leave(number):
            task = asyncio.ensure_future(visit(number))
            for _ in range(number % 7):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        for number in range(40):
            await asyncio.gather(visit(number), leave(number), visit(number))
        last = await channels.publish("a", "last")
        ids = []
        while last not in ids:
            item = (await take(steady, 1))[0]
            assert isinstance(item, Event)
            ids.append(item.id)
        numbers = [position_of(event_id)[1] for event_id in ids]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


async def test_the_first_in_and_the_last_out_lose_no_event(kind):
    async with made(kind) as channels:

        async def visit(number):
            async with channels.subscribe("a") as events:
                own = await channels.publish("a", number)
                items = []
                while own not in [item.id for item in items]:
                    items += await take(events, 1)
                assert all(isinstance(item, Event) for item in items)

        for _ in range(5):
            for number in range(10):
                await visit(number)
            await asyncio.gather(*(visit(number) for number in range(10)))


async def test_a_subscription_that_is_left_ends_its_iteration(kind):
    async with made(kind) as channels:
        subscription = channels.subscribe("a")
        await subscription.__aenter__()

        async def iterate():
            return [event async for event in subscription]

        task = asyncio.ensure_future(iterate())
        await asyncio.sleep(0)
        await subscription.__aexit__(None, None, None)
        assert await asyncio.wait_for(task, SECONDS) == []


async def test_a_cancelled_iteration_may_be_taken_up_again(kind):
    async with made(kind) as channels, channels.subscribe("a") as events:
        task = asyncio.ensure_future(events.__anext__())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await channels.publish("a", 1)
        assert await data(events, 1) == [1]


async def test_an_iteration_that_is_cancelled_beside_an_event_loses_nothing():
    async with Channels(MemoryBackend()).subscribe("a", max_bytes=2) as events:
        task = asyncio.ensure_future(events.__anext__())
        await asyncio.sleep(0)
        # The event reaches who waits in the loop's next turn, and the cancellation with it.
        published(events._backend, ("a", 1))
        asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.wait({task})
        assert task.cancelled()
        published(events._backend, ("a", 2), ("a", 3))
        # They arrive in the next turn, too.
        await asyncio.sleep(0)
        assert await take(events, 1) == [Gap("a", 1)]
        assert await data(events, 2) == [2, 3]


async def test_no_more_wait_for_a_subscriber_that_waits_than_for_others():
    async with Channels(MemoryBackend()).subscribe("a", max_queue=2) as events:
        task = asyncio.ensure_future(take(events, 3))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        published(events._backend, *(("a", number) for number in range(4)))
        gap, *newest = await task
        assert gap == Gap("a", 2)
        assert [event.data for event in newest] == [2, 3]


async def test_a_subscription_that_cannot_begin_is_undone():
    class Failing(MemoryBackend):
        async def attach(self, subscription):
            await super().attach(subscription)
            raise LookupError

    backend = Failing()
    with pytest.raises(LookupError):
        await Channels(backend).subscribe("a").__aenter__()
    assert await Memory().is_empty(backend)


# Misuse.


async def test_a_subscription_is_entered_once(kind):
    async with made(kind) as channels:
        subscription = channels.subscribe("a")
        async with subscription:
            with pytest.raises(RuntimeError, match="entered once"):
                await subscription.__aenter__()


async def test_a_subscription_is_iterated_within_its_context():
    with pytest.raises(RuntimeError, match="within its `async with`"):
        await Channels(MemoryBackend()).subscribe("a").__anext__()


async def test_a_subscription_is_iterated_by_one_task_at_a_time():
    async with Channels(MemoryBackend()).subscribe("a") as events:
        task = asyncio.ensure_future(events.__anext__())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one task at a time"):
            await events.__anext__()
        task.cancel()


NO_NAMES = ["", "x" * 201, None, 5, b"a", "\ud800"]


@pytest.mark.parametrize("name", NO_NAMES)
async def test_a_bad_name_is_refused(kind, name):
    async with made(kind) as channels:
        for call in (
            channels.publish(name, 1),
            channels.present(name),
        ):
            with pytest.raises(ValueError, match="channel's name"):
                await call
        with pytest.raises(ValueError, match="channel's name"):
            channels.subscribe("a", name)


async def test_the_longest_name_is_a_name(kind):
    async with made(kind) as channels, channels.subscribe("\u20ac" * 200) as events:
        await channels.publish("\u20ac" * 200, 1)
        assert await data(events, 1) == [1]


def loop_of_lists():
    found = []
    found.append(found)
    return found


def deep_list():
    found = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.parametrize(
    "content, named",
    [
        ({1, 2}, "set"),
        ({"a": object()}, "object"),
        ({"a": b""}, "bytes"),
        ({("a",): 1}, "dict"),
        (float("nan"), "float"),
        ([float("inf")], "list"),
        ("\ud800", "str"),
        (loop_of_lists(), "list"),
        (deep_list(), "list"),
    ],
)
async def test_data_that_json_does_not_carry_is_refused(kind, content, named):
    async with made(kind) as channels:
        with pytest.raises(TypeError, match=named):
            await channels.publish("a", content)
        with pytest.raises(TypeError, match=named):
            channels.subscribe("a", presence=content)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"max_queue": 0}, "max_queue .* not 0"),
        ({"max_queue": "9"}, "max_queue .* not '9'"),
        ({"max_queue": True}, "max_queue .* not True"),
        ({"max_bytes": 0}, "max_bytes .* not 0"),
        ({"max_bytes": "16 MiB"}, "max_bytes .* not '16 MiB'"),
        ({"overflow": "drop"}, "drop_oldest, close, not 'drop'"),
        ({"since": 7}, "since .* not 7"),
        ({"since": {"a": 7}}, "since"),
    ],
)
def test_a_bad_option_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        Channels(MemoryBackend()).subscribe("a", **options)


def test_a_subscription_has_a_channel():
    with pytest.raises(ValueError, match="name of a channel"):
        Channels(MemoryBackend()).subscribe()


def test_one_id_is_not_for_two_channels():
    with pytest.raises(ValueError, match="mapping"):
        Channels(MemoryBackend()).subscribe("a", "b", since=make_id((1, 1)))


# The memory backend's own.


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


# The shared parts.

json_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@modest
@given(json_data | st.binary())
def test_what_is_encoded_is_decoded(content):
    payload = encode(content)
    assert decode(payload) == content
    event = make_event("a", (1, 1), payload)
    assert event.data == content
    assert (event.json is None) == isinstance(content, bytes)
    assert event.size == len(payload) - 1


@modest
@given(st.binary())
def test_any_bytes_are_decoded_or_a_value_error(payload):
    for use in decode, partial(make_event, "a", (1, 1)):
        try:
            use(payload)
        except ValueError as error:
            assert str(error)


def test_json_that_is_nested_too_deep_is_a_value_error():
    with pytest.raises(ValueError, match="deep"):
        decode(b"j" + b"[" * 100_000)


@modest
@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 30))
def test_catching_up_accounts_for_every_event(newest, seen, kept):
    seen = min(seen, newest)
    stored = range(max(newest - kept, 0) + 1, newest + 1)
    rows = [
        ((5, n), (5, n - 1) if n > 1 else NOWHERE, make_event("a", (5, n), encode(n)))
        for n in stored
    ]
    after = (5, seen) if seen else NOWHERE
    items, reached = catch_up("a", after, (5, newest), rows, again=False)
    assert reached == (5, newest)
    numbers = [item.data for item in items if isinstance(item, Event)]
    missed = [item.missed for item in items if isinstance(item, Gap)]
    assert numbers == [n for n in stored if n > seen]
    if seen:
        assert sum(missed) + len(numbers) == newest - seen
    else:
        assert missed == ([] if len(numbers) == newest else [None])


def test_a_new_epoch_that_follows_what_was_seen_is_no_gap():
    event = make_event("a", (6, 1), b"j1")
    rows = [((6, 1), (5, 9), event)]
    assert catch_up("a", (5, 9), (6, 1), rows, again=False) == ([event], (6, 1))
    assert catch_up("a", (5, 10), (6, 1), rows, again=False)[0] == [Gap("a", None), event]


def test_a_head_that_is_behind_is_a_gap_and_nothing_is_repeated():
    event = make_event("a", (5, 1), b"j1")
    rows = [((5, 1), NOWHERE, event)]
    assert catch_up("a", (5, 9), (5, 1), rows, again=False) == ([Gap("a", None)], (5, 1))
    assert catch_up("a", (5, 9), (5, 1), rows, again=True) == ([Gap("a", None), event], (5, 1))


def test_an_event_that_is_not_kept_is_counted():
    rows = [((5, 1), NOWHERE, None), ((5, 2), (5, 1), None)]
    assert catch_up("a", (5, 1), (5, 2), rows, again=False) == ([Gap("a", 1)], (5, 2))
    assert catch_up("a", (4, 1), (5, 2), rows, again=False) == ([Gap("a", None)], (5, 2))


def delivered(*positions):
    feed = Feed("a", (5, 1))
    subscription = queue_of(max_queue=99)
    feed.subscribers[subscription] = None
    for position in positions:
        feed.deliver(position, make_event("a", position, encode(position)))
    return [
        item.missed if isinstance(item, Gap) else tuple(item.data) for item in subscription._queue
    ]


def test_a_feed_delivers_each_event_once_and_sees_what_is_missing():
    assert delivered((5, 1), (5, 2), (5, 2), (5, 5)) == [(5, 2), 2, (5, 5)]
    # A fresh epoch from its start: the data is lost, but no event.
    assert delivered((6, 1), (7, 3)) == [(6, 1), None, (7, 3)]


def test_an_error_of_the_channels_is_one():
    assert issubclass(SubscriptionOverflow, ChannelsError)
