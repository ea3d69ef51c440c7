"""The races of subscribing, one step at a time: what a real Redis shows only now and then."""

import asyncio
from types import SimpleNamespace

import pytest

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.base import Feed, Gap, encode, make_event, make_id
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import feeds, hub


class Subscriber:
    channels = ("a",)
    presence = None
    since = {}

    def __init__(self):
        self.replayed = []
        self.queue = []

    @property
    def items(self):
        return self.replayed + self.queue

    def put(self, item):
        self.queue.append(item)

    def replay(self, items):
        assert not self.queue
        self.replayed += items


def event(number):
    return make_event("a", (1, number), encode(number))


def event_at(epoch, number):
    return make_event("a", (epoch, number), encode(number))


def numbers(subscriber):
    return [item.data for item in subscriber.items]


def test_a_feed_that_knows_nothing_yet_takes_the_first_event_as_it_is():
    feed, subscriber = Feed("a", None), Subscriber()
    feed.subscribers[subscriber] = None
    feed.deliver((1, 7), event(7))
    assert (numbers(subscriber), feed.last) == ([7], (1, 7))


def settled_feed():
    feed = feeds.StreamFeed("a", False)
    feed.next_page()
    feed.take_page((1, 1), [], None)
    return feed


def rows(*numbers):
    return [((1, number), (1, number - 1), event(number)) for number in numbers]


def join(feed, since):
    subscriber = Subscriber()
    feed.add(subscriber, since, in_touch=True)
    return subscriber


def since(number):
    return make_id((1, number))


def test_what_arrives_before_the_replay_comes_after_it_and_once():
    feed = settled_feed()
    subscriber = join(feed, since(0))
    assert feed.next_page() == (1, 0)
    for number in (2, 3):
        feed.receive((1, number), event(number))
    feed.take_page((1, 2), rows(1, 2), (1, 2))
    feed.receive((1, 4), event(4))
    assert numbers(subscriber) == [1, 2, 3, 4]


def test_pages_are_read_from_the_oldest_place_once_for_all():
    feed = settled_feed()
    old, newer, unknown = join(feed, since(2)), join(feed, since(5)), Subscriber()
    assert feed.next_page() == (1, 2)
    feed.take_page((1, 6), rows(3, 4), (1, 4))
    assert (numbers(old), numbers(newer)) == ([3, 4], [])
    # A newcomer from an older place waits for the next reading.
    feed.add(unknown, "unknown", in_touch=True)
    assert feed.next_page() == (1, 4)
    feed.receive((1, 7), event(7))
    feed.take_page((1, 7), rows(5, 6, 7), (1, 7))
    assert (numbers(old), numbers(newer)) == ([3, 4, 5, 6, 7], [6, 7])
    assert feed.wants_more()
    assert feed.next_page() == (0, 0)
    feed.take_page((1, 7), rows(6, 7), (1, 7))
    gap, *events = unknown.items
    assert (gap, [item.data for item in events]) == (Gap("a", None), [6, 7])
    assert not feed.wants_more()
    assert list(feed.subscribers) == [old, newer, unknown]


def test_a_reading_ends_though_more_is_published():
    feed = settled_feed()
    subscriber = join(feed, since(0))
    feed.next_page()
    feed.take_page((1, 4), rows(1, 2), (1, 2))
    for number in range(5, 8):
        feed.receive((1, number), event(number))
    assert feed.next_page() == (1, 2)
    feed.take_page((1, 9), rows(3, 4, 5), (1, 5))
    assert numbers(subscriber) == [1, 2, 3, 4, 5, 6, 7]
    assert not feed.wants_more()


def test_who_comes_from_a_place_that_never_was_gets_everything():
    feed = settled_feed()
    known, lost = join(feed, since(3)), join(feed, since(9))
    assert feed.next_page() == (1, 3)
    feed.take_page((1, 5), rows(4, 5), (1, 5))
    assert feed.next_page() == (0, 0)
    feed.take_page((1, 5), rows(2, 3, 4, 5), (1, 5))
    assert numbers(known) == [4, 5]
    gap, *events = lost.items
    assert (gap, [item.data for item in events]) == (Gap("a", None), [2, 3, 4, 5])


def test_a_feed_that_is_ahead_of_what_is_stored_has_a_gap_and_repeats_nothing():
    feed = settled_feed()
    subscriber = join(feed, None)
    feed.receive((1, 2), event(2))
    feed.begin()
    assert feed.next_page() == (1, 2)
    feed.take_page((1, 1), rows(1), (1, 1))
    assert subscriber.items == [event(2), Gap("a", None)]
    assert (feed.last, feed.settled) == ((1, 1), True)


def test_more_than_is_held_is_read_again(monkeypatch):
    monkeypatch.setattr(feeds, "HELD", 2)
    feed = settled_feed()
    subscriber = join(feed, since(1))
    feed.next_page()
    for number in range(2, 7):
        feed.receive((1, number), event(number))
    feed.take_page((1, 1), [], None)
    assert feed.next_page() == (1, 1)
    feed.take_page((1, 6), rows(2, 3, 4), (1, 4))
    assert numbers(subscriber) == [2, 3, 4, 5, 6]


def test_a_reading_ends_with_a_gap_where_more_comes_than_can_be_read(monkeypatch):
    monkeypatch.setattr(feeds, "HELD", 2)
    feed = settled_feed()
    subscriber = join(feed, since(1))
    head = at = 1
    for _ in range(1 + feeds.FURTHER):
        feed.next_page()
        for number in range(head + 1, head + 6):
            feed.receive((1, number), event(number))
        reading = feed.reading
        feed.take_page((1, head), rows(at), (1, at))
        head += 5
        at = reading.target[1]
    assert not feed.wants_more()
    assert subscriber.items[-3:] == [Gap("a", 5), event(head - 1), event(head)]


def test_few_long_events_are_held(monkeypatch):
    monkeypatch.setattr(feeds, "HELD_BYTES", 2)
    feed = settled_feed()
    subscriber = join(feed, since(1))
    feed.next_page()
    for number in (2, 3, 4000):
        feed.receive((1, number), event(number))
    assert [position for position, _ in feed.reading.held] == [(1, 4000)]
    feed.take_page((1, 3), rows(2, 3), (1, 3))
    assert subscriber.items == [event(2), event(3), Gap("a", 3996), event(4000)]


def test_what_was_published_after_a_replay_began_counts_as_what_arrives_does(monkeypatch):
    monkeypatch.setattr(feeds, "HELD", 1)
    feed = settled_feed()
    subscriber = join(feed, since(1))
    feed.next_page()
    feed.take_page((1, 4), rows(2), (1, 2))
    for number in (5, 6, 7):
        feed.receive((1, number), event(number))
    feed.next_page()
    feed.take_page((1, 7), rows(3, 4), (1, 4))
    assert (numbers(subscriber), subscriber.queue) == ([2, 3, 4], [])
    feed.next_page()
    feed.take_page((1, 7), rows(5, 6), (1, 6))
    assert subscriber.queue == [event(5), event(6), event(7)]
    assert not feed.wants_more()


# A stream that is deleted begins anew in a later epoch, while what was before is on its way.


def test_what_was_before_a_replay_does_not_come_after_it():
    feed = settled_feed()
    steady, subscriber = join(feed, None), join(feed, since(1))
    feed.next_page()
    feed.receive((1, 2), event(2))
    fresh = [event_at(2, number) for number in (1, 2)]
    feed.take_page((2, 1), [((2, 1), (0, 0), fresh[0])], (2, 1))
    for number in (3, 4):
        feed.receive((1, number), event(number))
    for number in (1, 2):
        feed.receive((2, number), fresh[number - 1])
    assert subscriber.items == [Gap("a", None), *fresh]
    assert steady.items == [event(2), event(3), event(4), *fresh]


def test_what_was_before_a_feed_caught_up_does_not_come_after_it():
    feed = settled_feed()
    steady = join(feed, None)
    feed.begin()
    feed.next_page()
    fresh = [event_at(2, number) for number in (1, 2)]
    feed.receive((1, 2), event(2))
    feed.take_page((2, 1), [((2, 1), (0, 0), fresh[0])], (2, 1))
    feed.receive((1, 3), event(3))
    for number in (1, 2):
        feed.receive((2, number), fresh[number - 1])
    assert steady.items == [Gap("a", None), *fresh]


def test_what_was_before_all_was_deleted_does_not_come_again():
    feed = settled_feed()
    subscriber = join(feed, since(3))
    feed.next_page()
    feed.take_page(None, [], None)
    for number in (2, 3):
        feed.receive((1, number), event(number))
    feed.receive((2, 1), event_at(2, 1))
    assert subscriber.items == [Gap("a", None), event_at(2, 1)]


def test_a_clock_that_is_put_back_keeps_no_event_back():
    feed = settled_feed()
    subscriber = join(feed, since(1))
    feed.next_page()
    feed.take_page((1, 2), rows(2), (1, 2))
    feed.published = (1, 3)
    publisher = join(feed, None)
    earlier = [event_at(0, number) for number in (1, 2)]
    feed.receive((0, 1), earlier[0])
    late = join(feed, None)
    feed.receive((0, 2), earlier[1])
    assert subscriber.items == [event(2), *earlier]
    assert publisher.items == earlier
    assert late.items == earlier[1:]


def test_a_feed_forgets_what_was_published_in_an_epoch_that_is_gone():
    feed = feeds.StreamFeed("a", False)
    feed.next_page()
    feed.take_page((5, 1), [], None)
    steady = join(feed, None)
    feed.published = (5, 2)
    feed.begin()
    feed.next_page()
    feed.take_page((4, 3), [], None)
    late = join(feed, None)
    feed.receive((4, 4), event_at(4, 4))
    assert steady.items == [Gap("a", None), event_at(4, 4)]
    assert late.items == [event_at(4, 4)]


def test_who_comes_while_a_feed_catches_up_gets_nothing_of_that():
    feed = settled_feed()
    steady = join(feed, None)
    feed.begin()
    late = join(feed, None)
    assert feed.waits_for(late) and not feed.waits_for(steady)
    feed.next_page()
    feed.take_page((1, 5), rows(2, 3), (1, 3))
    assert not feed.waits_for(late)
    latest = join(feed, None)
    feed.next_page()
    feed.receive((1, 6), event(6))
    feed.take_page((1, 5), rows(5), (1, 5))
    assert steady.items == [event(2), event(3), Gap("a", 1), event(5), event(6)]
    assert late.items == latest.items == [event(6)]


def test_who_comes_while_the_first_page_is_on_its_way_gets_nothing_of_what_came_behind_that():
    feed = feeds.StreamFeed("a", False)
    first, newcomer = Subscriber(), Subscriber()
    feed.add(first, None, True)
    assert feed.next_page() is None
    feed.asked = True
    feed.receive((1, 2), event(2))
    feed.add(newcomer, None, True)
    assert feed.waits_for(newcomer)
    feed.receive((1, 3), event(3))
    feed.take_page((1, 1), [], None)
    feed.asked = False
    assert feed.waits_for(newcomer) and feed.wants_more()
    assert feed.next_page() is None
    feed.take_page((1, 3), [], None)
    assert not feed.waits_for(newcomer) and not feed.wants_more()
    feed.receive((1, 4), event(4))
    assert numbers(first) == [2, 3, 4]
    assert numbers(newcomer) == [4]


def test_who_came_while_a_feed_caught_up_gets_all_of_it_where_that_broke_off():
    feed = settled_feed()
    feed.begin()
    late = join(feed, None)
    feed.lose_touch()
    feed.begin()
    feed.next_page()
    feed.take_page((1, 2), rows(2), (1, 2))
    assert numbers(late) == [2]


def test_what_was_read_is_kept_when_the_connection_breaks():
    feed = settled_feed()
    subscriber = join(feed, since(1))
    feed.next_page()
    feed.take_page((1, 4), rows(2, 3), (1, 3))
    feed.lose_touch()
    feed.begin()
    assert feed.next_page() == (1, 3)
    feed.take_page((1, 4), rows(4), (1, 4))
    assert numbers(subscriber) == [2, 3, 4]


def test_a_gap_counts_what_a_subscriber_itself_has_missed():
    feed, subscriber = settled_feed(), Subscriber()
    feed.joining[subscriber] = feeds._Joiner(reached=(1, 2))
    feed.receive((1, 4), event(4))
    assert subscriber.items == [Gap("a", 1), event(4)]


def test_a_gap_before_what_a_subscriber_has_seen_is_none_of_its_own():
    feed, ahead, level = settled_feed(), Subscriber(), Subscriber()
    feed.joining[ahead] = feeds._Joiner(reached=(1, 5))
    feed.joining[level] = feeds._Joiner(reached=(1, 3))
    feed.receive((1, 4), event(4))
    assert (ahead.items, level.items) == ([], [event(4)])
    feed.receive((1, 6), event(6))
    assert ahead.items == [event(6)]


def test_a_gap_that_nobody_can_count_is_everybodys():
    feed, subscriber = settled_feed(), Subscriber()
    feed.joining[subscriber] = feeds._Joiner(reached=(1, 2))
    feed.receive((2, 4), make_event("a", (2, 4), encode(4)))
    assert subscriber.items[0] == Gap("a", None)


def test_who_subscribed_while_redis_was_out_of_touch_has_a_gap():
    feed = feeds.StreamFeed("a", True)
    subscriber = join(feed, None)
    feed.next_page()
    feed.take_page((1, 7), [], None)
    assert (subscriber.items, feed.last) == ([Gap("a", None)], (1, 7))


def test_who_comes_from_the_same_place_shares_a_page():
    feed = settled_feed()
    subscribers = [join(feed, since(0)) for _ in "ab"]
    feed.next_page()
    feed.take_page((1, 2), rows(1, 2), (1, 2))
    assert [numbers(subscriber) for subscriber in subscribers] == [[1, 2]] * 2


def test_a_reading_that_nobody_waits_for_is_given_up():
    feed = settled_feed()
    subscriber = join(feed, since(1))
    feed.next_page()
    feed.take_page((1, 9), rows(2), (1, 2))
    del feed.joining[subscriber]
    join(feed, since(5))
    assert feed.next_page() == (1, 5)


async def test_who_has_stopped_waiting_is_not_woken():
    feed = settled_feed()
    gone, waiting = (asyncio.get_running_loop().create_future() for _ in range(2))
    gone.cancel()
    feed.waiters = [gone, waiting]
    feed.wake()
    assert waiting.done()


class LoneHub(hub.Hub):
    async def _run(self):
        """It has no connection."""


def lone_hub():
    """A hub without a connection."""
    return LoneHub(SimpleNamespace(redis_channel=str.encode), None, None)


async def test_a_confirmation_of_a_channel_that_was_left_reads_nothing():
    left = lone_hub()
    left._unconfirmed[b"a"] = 1
    left._confirm(b"a")
    assert not left._first
    assert not left._unconfirmed


async def test_a_page_from_another_server_than_the_subscribers_is_not_taken():
    reading, feed = lone_hub(), settled_feed()
    reading.feeds[b"a"] = feed
    reading._backend.stream = str.encode
    reading._life = b"one"
    with pytest.raises(ConnectionError, match="two servers"):
        reading._take(feed, [b"other", b"1-1", b"", b""])


async def test_who_never_subscribed_leaves_nothing():
    assert lone_hub().detach(Subscriber()) == []


async def test_a_feed_that_is_settled_is_not_read_again_for_who_needs_no_replay():
    reading, feed = lone_hub(), settled_feed()
    feed.confirmed = True
    feed.published = (1, 5)
    feed.add(Subscriber(), None, in_touch=True)
    reading._want(feed)
    assert not reading._first


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
