"""The races of subscribing, one step at a time: what a real Redis shows only now and then."""

import asyncio
from collections import Counter
from types import SimpleNamespace

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels import redis as module
from pyramid_asgi_consumers.channels.base import Feed, Gap, encode, make_event
from pyramid_asgi_consumers.channels.memory import MemoryBackend


class Subscriber:
    channels = ("a",)
    presence = None

    def __init__(self):
        self.items = []

    def put(self, item):
        self.items.append(item)

    def replay(self, items):
        self.items = [*items, *self.items]


def event(number):
    return make_event("a", (1, number), encode(number))


def numbers(subscriber):
    return [item.data for item in subscriber.items]


def test_a_feed_that_knows_nothing_yet_takes_the_first_event_as_it_is():
    feed, subscriber = Feed("a", None), Subscriber()
    feed.subscribers[subscriber] = None
    feed.deliver((1, 7), event(7))
    assert (numbers(subscriber), feed.last) == ([7], (1, 7))


def settled_feed():
    feed = module._Feed("a", False)
    feed.settle((1, 1), [])
    return feed


def test_what_arrives_before_the_replay_comes_after_it_and_once():
    feed, subscriber = settled_feed(), Subscriber()
    feed.joining[subscriber] = module._Joiner((1, 0))
    for number in (2, 3):
        feed.receive((1, number), event(number))
    rows = [((1, number), (1, number - 1), event(number)) for number in (1, 2)]
    feed.join(subscriber, (1, 2), rows)
    feed.receive((1, 4), event(4))
    assert numbers(subscriber) == [1, 2, 3, 4]


def test_a_gap_behind_what_a_subscriber_has_seen_is_its_own_too():
    feed, subscriber = settled_feed(), Subscriber()
    feed.joining[subscriber] = module._Joiner(None, (1, 2))
    feed.receive((1, 4), event(4))
    assert subscriber.items == [Gap("a", 2), event(4)]


async def test_who_leaves_while_its_replay_is_read_gets_none():
    settling, feed, subscriber = hub(), settled_feed(), Subscriber()
    feed.joining[subscriber] = module._Joiner((1, 0))
    read = asyncio.Event()

    async def answer(command):
        del feed.joining[subscriber]
        read.set()
        return b"1-1", []

    settling._ask = lambda feed, after, otherwise: None
    settling.answer = answer
    settling._unsettled.put_nowait(feed)
    task = asyncio.create_task(settling._settle())
    await asyncio.wait_for(read.wait(), 20)
    task.cancel()
    await asyncio.wait({task})
    assert subscriber.items == []


async def test_who_has_stopped_waiting_is_not_woken():
    feed = settled_feed()
    gone, waiting = (asyncio.get_running_loop().create_future() for _ in range(2))
    gone.cancel()
    feed.waiters = [gone, waiting]
    feed.wake()
    assert waiting.done()


def hub():
    """A hub without a connection."""
    hub = object.__new__(module._Hub)
    hub.feeds = {}
    hub._backend = SimpleNamespace(redis_channel=str.encode)
    hub._unconfirmed = Counter()
    hub._unsettled = asyncio.Queue()
    hub._outage = None
    return hub


async def test_a_confirmation_of_a_channel_that_was_left_settles_nothing():
    left = hub()
    left._unconfirmed[b"a"] = 1
    left._confirm(b"a")
    assert left._unsettled.empty()
    assert not left._unconfirmed


async def test_who_never_subscribed_leaves_nothing():
    assert hub().detach(Subscriber()) == []


async def test_a_feed_that_is_settled_is_not_read_again_for_who_needs_no_replay():
    settling, feed = hub(), settled_feed()
    feed.joining[Subscriber()] = module._Joiner(None, (1, 5))
    waiter = asyncio.get_running_loop().create_future()
    feed.waiters.append(waiter)
    settling._unsettled.put_nowait(feed)
    task = asyncio.create_task(settling._settle())
    await asyncio.wait_for(waiter, 20)
    task.cancel()
    await asyncio.wait({task})
    assert settling._attempt == 0


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
