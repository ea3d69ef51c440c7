"""What every backend of the channels does."""

import asyncio
import threading
from contextlib import asynccontextmanager
from functools import partial

import pytest

from pyramid_asgi_consumers.channels import Channels, Event, Gap
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.positions import make_id, position_of
from pyramid_asgi_consumers.exceptions import SubscriptionOverflow
from tests.support.channels import SECONDS, Memory, Redis, data, published, take


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


async def eventually(condition):
    deadline = asyncio.get_running_loop().time() + SECONDS
    holds = False
    while not holds:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)
        holds = await condition()


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


# Where a channel stands.


async def replayed(channels, name, since, count):
    """What follows that place: so many items, and then nothing before what is published now."""
    async with channels.subscribe(name, since=since) as events:
        await channels.publish(name, "now")
        *items, last = await take(events, count + 1)
        assert last.data == "now"
        return [item if isinstance(item, Gap) else item.data for item in items]


@pytest.mark.parametrize("history", [0, 10])
async def test_a_channel_stands_at_its_newest_event(kind, history):
    async with made(kind, history=history) as channels:
        for number in range(3):
            newest = await channels.publish("a", number)
            await channels.publish("b", number)
            assert await channels.position("a") == newest
            assert await asyncio.to_thread(channels.backend.position_now, "a") == newest
        assert await replayed(channels, "a", newest, 0) == []


async def test_all_that_is_published_follows_the_place_of_a_channel_without_events(kind):
    async with made(kind, history=10) as channels:
        early = await channels.position("a"), channels.backend.position_now("a")
        assert await replayed(channels, "b", await channels.position("b"), 0) == []
        for number in range(3):
            await channels.publish("a", number)
        expected = [0, 1, 2]
        for position in early:
            assert position_of(position) is not None
            assert await replayed(channels, "a", position, len(expected)) == expected
            expected.append("now")


async def test_a_gap_follows_the_place_of_a_channel_without_events_where_some_are_trimmed(kind):
    for history, kept in (0, []), (2, [1, 2]):
        async with made(kind, history=history) as channels:
            position = await channels.position("a")
            for number in range(3):
                await channels.publish("a", number)
            async with channels.subscribe("a", since=position) as events:
                gap, *events = await take(events, 1 + len(kept))
            assert isinstance(gap, Gap) and gap.channel == "a"
            assert [event.data for event in events] == kept


async def test_a_gap_follows_the_place_of_a_channel_that_was_forgotten_since(kind):
    async with made(kind, history=10, expiry=1) as channels:
        empty = await channels.position("a")
        newest = await channels.publish("a", 0)

        async def is_forgotten():
            # A channel without a subscriber is forgotten when another one is used.
            await channels.publish("b", 0)
            return await channels.position("a") != newest

        await eventually(is_forgotten)
        later = await channels.position("a")
        for position in empty, newest:
            async with channels.subscribe("a", since=position) as events:
                assert await take(events, 1) == [Gap("a", None)]
                assert events.positions["a"] >= later
        assert await replayed(channels, "a", later, 0) == []
        assert await replayed(channels, "a", later, 1) == ["now"]
        for position in empty, newest:
            gap, *events = await replayed(channels, "a", position, 3)
            assert (gap, events[:2]) == (Gap("a", None), ["now", "now"])


async def test_asking_where_a_channel_stands_creates_nothing(kind):
    async with made(kind, history=10) as channels:
        for number in range(3):
            await channels.position(f"never {number}")
            channels.backend.position_now(f"never {number}")
            channels.backend.present_now(f"never {number}")
        assert await kind.stored(channels.backend) == []


async def test_positions_follow_what_was_yielded(kind):
    async with made(kind, history=10) as channels:
        first = await channels.publish("a", 1)
        second = await channels.publish("a", 2)
        newest = await channels.publish("b", 1)
        subscription = channels.subscribe("a", "b", "c", since={"a": first, "x": "not subscribed"})
        assert subscription.positions == {"a": first}
        async with subscription as events:
            begun = events.positions
            empty = begun["c"]
            assert begun == {"a": first, "b": newest, "c": empty}
            assert empty <= await channels.position("c")
            ids = [await channels.publish(name, "now") for name in "bc"]
            # What waits is still to come.
            assert events.positions == begun
            seen = {}
            for item in await take(events, 1):
                seen[item.channel] = item.id
            assert events.positions == {**begun, **seen}
            await take(events, 2)
            assert events.positions == {"a": second, "b": ids[0], "c": ids[1]}
        assert subscription.positions == {"a": second, "b": ids[0], "c": ids[1]}
        assert begun == {"a": first, "b": newest, "c": empty}
        assert await replayed(channels, "c", empty, 1) == ["now"]


@pytest.mark.parametrize("since", ["", "x" * 5000, make_id((1, 1))])
async def test_what_begins_at_a_place_that_never_was_begins_there_again(kind, since):
    async with made(kind, history=2) as channels:
        for number in range(3):
            await channels.publish("a", number)
        for _ in range(2):
            async with channels.subscribe("a", since=since) as events:
                since = events.positions["a"]
                assert position_of(since) is not None
                gap, event = await take(events, 2)
                assert (gap, event.data) == (Gap("a", None), 1)


async def test_what_follows_a_gap_follows_its_id(kind):
    async with made(kind, history=2) as channels:
        empty = await channels.position("a")
        ids = [await channels.publish("a", number) for number in range(6)]
        for since in ids[0], empty, make_id((1, 1)):
            async with channels.subscribe("a", since=since) as events:
                gap, *_ = await take(events, 1)
                assert isinstance(gap, Gap)
                assert events.positions == {"a": gap.id}
                assert [event.id for event in await take(events, 2)] == ids[4:]
            async with channels.subscribe("a", since=gap.id) as events:
                assert [event.id for event in await take(events, 2)] == ids[4:]
    async with made(kind) as channels:
        ids = [await channels.publish("a", number) for number in range(3)]
        async with channels.subscribe("a", since=ids[0]) as events:
            assert [gap.id for gap in await take(events, 1)] == ids[2:]


async def test_the_gap_of_a_slow_subscriber_ends_at_the_last_event_that_is_missing(kind):
    async with made(kind, history=10) as channels, channels.subscribe("a") as quick:
        async with channels.subscribe("a", max_queue=2, max_bytes=100) as slow:
            ids = [await channels.publish("a", number) for number in range(5)]
            await take(quick, 5)
            gap, *_ = await take(slow, 1)
            assert (gap, gap.id) == (Gap("a", 3), ids[2])
            assert slow.positions == {"a": ids[2]}
            await take(slow, 2)
            assert slow.positions == {"a": ids[4]}
            long = await channels.publish("a", LONG)
            assert [(gap, gap.id) for gap in await take(slow, 1)] == [(Gap("a", 1), long)]


async def test_positions_are_exact_whoever_publishes_meanwhile(kind):
    """A subscription that goes on from the positions of another gets what that would have got."""
    async with made(kind, history=10_000) as channels:
        ids = []
        enough = threading.Event()

        def publish():
            while not enough.wait(0.001):
                ids.extend(published(channels.backend, ("a", len(ids))))

        async def follow(length):
            async with channels.subscribe("a") as events:
                begun = events.positions["a"]
                position = await channels.position("a")
                assert begun <= position
                for _ in range(length):
                    await take(events, 1)
                left = events.positions["a"]
            return begun, left

        async def rest(since):
            async with channels.subscribe("a", since=since) as events:
                seen = []
                while not seen or seen[-1].data != "last":
                    seen += await take(events, 1)
                return [event.id for event in seen]

        thread = threading.Thread(target=publish)
        places = list(await follow(0))
        thread.start()
        try:
            for _ in range(15):
                for pair in await asyncio.gather(*(follow(length) for length in range(3))):
                    places += pair
                places.append(await channels.position("a"))
        finally:
            enough.set()
            thread.join()
        ids.append(await channels.publish("a", "last"))
        for place in places:
            assert await rest(place) == [event_id for event_id in ids if event_id > place]


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
        assert sorted(arrived[:2], key=lambda gap: gap.channel) == [Gap("a", 2), Gap("b", 1)]


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
            channels.position(name),
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
