"""The races of subscribing, one step at a time: what a real Redis shows only now and then."""

import asyncio

from pyramid_asgi_consumers.channels import Gap
from pyramid_asgi_consumers.channels.events import encode, make_event
from pyramid_asgi_consumers.channels.feeds import Feed
from pyramid_asgi_consumers.channels.positions import make_id, position_of
from pyramid_asgi_consumers.channels.redis import feeds, readings
from pyramid_asgi_consumers.channels.redis.entries import parse_beginning
from tests.channels.redis.subscribers import (
    EXPIRY,
    Subscriber,
    event,
    event_at,
    join,
    live_feed,
    numbers,
    rows,
    since,
)


def test_a_feed_that_knows_nothing_yet_takes_the_first_event_as_it_is():
    feed, subscriber = Feed("a", None), Subscriber()
    feed.subscribers[subscriber] = None
    feed.deliver((1, 7), event(7))
    assert (numbers(subscriber), feed.last) == ([7], (1, 7))


def test_what_arrives_before_the_replay_comes_after_it_and_once():
    feed = live_feed()
    subscriber = join(feed, since(0))
    assert feed.next_page() == (1, 0)
    for number in (2, 3):
        feed.receive((1, number), event(number))
    feed.take_page((1, 2), rows(1, 2), (1, 2))
    feed.receive((1, 4), event(4))
    assert numbers(subscriber) == [1, 2, 3, 4]


def test_pages_are_read_from_the_oldest_place_once_for_all():
    feed = live_feed()
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
    feed = live_feed()
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
    feed = live_feed()
    known, lost = join(feed, since(3)), join(feed, since(9))
    assert feed.next_page() == (1, 3)
    feed.take_page((1, 5), rows(4, 5), (1, 5))
    assert feed.next_page() == (0, 0)
    feed.take_page((1, 5), rows(2, 3, 4, 5), (1, 5))
    assert numbers(known) == [4, 5]
    gap, *events = lost.items
    assert (gap, [item.data for item in events]) == (Gap("a", None), [2, 3, 4, 5])


def test_a_feed_that_is_ahead_of_what_is_stored_has_a_gap_and_repeats_nothing():
    feed = live_feed()
    subscriber = join(feed, None)
    feed.receive((1, 2), event(2))
    feed.begin()
    assert feed.next_page() == (1, 2)
    feed.take_page((1, 1), rows(1), (1, 1))
    assert subscriber.items == [event(2), Gap("a", None)]
    assert (feed.last, feed.caught_up) == ((1, 1), True)


def test_more_than_is_held_is_read_again(monkeypatch):
    monkeypatch.setattr(readings, "HELD", 2)
    feed = live_feed()
    subscriber = join(feed, since(1))
    feed.next_page()
    for number in range(2, 7):
        feed.receive((1, number), event(number))
    feed.take_page((1, 1), [], None)
    assert feed.next_page() == (1, 1)
    feed.take_page((1, 6), rows(2, 3, 4), (1, 4))
    assert numbers(subscriber) == [2, 3, 4, 5, 6]


def test_a_reading_ends_with_a_gap_where_more_comes_than_can_be_read(monkeypatch):
    monkeypatch.setattr(readings, "HELD", 2)
    feed = live_feed()
    subscriber = join(feed, since(1))
    head = at = 1
    for _ in range(1 + readings.FURTHER):
        feed.next_page()
        for number in range(head + 1, head + 6):
            feed.receive((1, number), event(number))
        reading = feed.reading
        feed.take_page((1, head), rows(at), (1, at))
        head += 5
        at = reading.target[1]
    assert not feed.wants_more()
    assert subscriber.items[-3:] == [Gap("a", 5), event(head - 1), event(head)]


def test_what_was_published_after_a_replay_began_counts_as_what_arrives_does(monkeypatch):
    monkeypatch.setattr(readings, "HELD", 1)
    feed = live_feed()
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
    feed = live_feed()
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
    feed = live_feed()
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
    feed = live_feed()
    subscriber = join(feed, since(3))
    feed.next_page()
    feed.take_page(None, [], None)
    for number in (2, 3):
        feed.receive((1, number), event(number))
    feed.receive((2, 1), event_at(2, 1))
    assert subscriber.items == [Gap("a", None), event_at(2, 1)]


def test_a_clock_that_is_put_back_keeps_no_event_back():
    feed = live_feed()
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
    feed = feeds.StreamFeed("a", False, EXPIRY)
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
    feed = live_feed()
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
    feed = feeds.StreamFeed("a", False, EXPIRY)
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
    feed = live_feed()
    feed.begin()
    late = join(feed, None)
    feed.lose_touch()
    feed.begin()
    feed.next_page()
    feed.take_page((1, 2), rows(2), (1, 2))
    assert numbers(late) == [2]


def test_what_was_read_is_kept_when_the_connection_breaks():
    feed = live_feed()
    subscriber = join(feed, since(1))
    feed.next_page()
    feed.take_page((1, 4), rows(2, 3), (1, 3))
    feed.lose_touch()
    assert not subscriber.is_in_touch
    feed.begin()
    assert feed.next_page() == (1, 3)
    feed.take_page((1, 4), rows(4), (1, 4))
    assert numbers(subscriber) == [2, 3, 4]
    assert subscriber.is_in_touch


def test_a_gap_counts_what_a_subscriber_itself_has_missed():
    feed, subscriber = live_feed(), Subscriber()
    feed.joining[subscriber] = readings.Joiner(reached=(1, 2))
    feed.receive((1, 4), event(4))
    assert subscriber.items == [Gap("a", 1), event(4)]


def test_a_gap_before_what_a_subscriber_has_seen_is_none_of_its_own():
    feed, ahead, level = live_feed(), Subscriber(), Subscriber()
    feed.joining[ahead] = readings.Joiner(reached=(1, 5))
    feed.joining[level] = readings.Joiner(reached=(1, 3))
    feed.receive((1, 4), event(4))
    assert (ahead.items, level.items) == ([], [event(4)])
    feed.receive((1, 6), event(6))
    assert ahead.items == [event(6)]


def test_a_gap_that_nobody_can_count_is_everybodys():
    feed, subscriber = live_feed(), Subscriber()
    feed.joining[subscriber] = readings.Joiner(reached=(1, 2))
    feed.receive((2, 4), make_event("a", (2, 4), encode(4)))
    assert subscriber.items[0] == Gap("a", None)


def test_who_subscribed_while_redis_was_out_of_touch_has_a_gap():
    feed = feeds.StreamFeed("a", True, EXPIRY)
    subscriber = join(feed, None)
    feed.next_page()
    feed.take_page((1, 7), [], None)
    assert (subscriber.items, feed.last) == ([Gap("a", None)], (1, 7))


def test_who_comes_from_the_same_place_shares_a_page():
    feed = live_feed()
    subscribers = [join(feed, since(0)) for _ in "ab"]
    feed.next_page()
    feed.take_page((1, 2), rows(1, 2), (1, 2))
    assert [numbers(subscriber) for subscriber in subscribers] == [[1, 2]] * 2


def test_a_reading_that_nobody_waits_for_is_given_up():
    feed = live_feed()
    subscriber = join(feed, since(1))
    feed.next_page()
    feed.take_page((1, 9), rows(2), (1, 2))
    del feed.joining[subscriber]
    join(feed, since(5))
    assert feed.next_page() == (1, 5)


async def test_who_has_stopped_waiting_is_not_woken():
    feed = live_feed()
    gone, waiting = (asyncio.get_running_loop().create_future() for _ in range(2))
    gone.cancel()
    feed.waiters = [gone, waiting]
    feed.wake()
    assert waiting.done()


def test_who_never_subscribed_is_not_removed():
    assert live_feed().remove(Subscriber()) is False


# Where each begins, and where a gap ends.


def place(subscriber):
    return position_of(subscriber.positions["a"])


def test_who_comes_to_a_live_feed_begins_where_that_stands():
    feed = live_feed()
    feed.receive((1, 2), event(2))
    assert place(join(feed, None)) == (1, 2)


def test_who_has_just_published_begins_behind_that():
    feed = live_feed()
    feed.published = (1, 3)
    assert place(join(feed, None)) == (1, 3)


def test_who_comes_while_a_feed_catches_up_begins_at_the_newest_event_that_was_stored():
    feed = live_feed()
    feed.begin()
    late = join(feed, None)
    assert late.positions == {}
    feed.next_page()
    feed.take_page((1, 5), rows(2, 3), (1, 3))
    assert place(late) == (1, 5)


def test_who_comes_while_a_feed_catches_up_begins_where_that_stood_if_it_breaks_off():
    feed = live_feed()
    feed.begin()
    late = join(feed, None)
    feed.lose_touch()
    assert place(late) == (1, 1)


def test_all_begin_at_the_first_page():
    feed = feeds.StreamFeed("a", True, EXPIRY)
    early = join(feed, None)
    assert early.positions == {}
    feed.next_page()
    feed.take_page((1, 7), [], None)
    assert place(early) == (1, 7)
    assert [gap.id for gap in early.items] == [make_id((1, 7))]


def test_where_nothing_can_be_read_nobody_knows_where_it_begins():
    feed = feeds.StreamFeed("a", False, EXPIRY)
    early = join(feed, None)
    feed.next_page()
    feed.take_page(None, [], None)
    assert (early.positions, join(feed, None).positions) == ({}, {})


def test_a_channel_without_events_stands_still_while_it_is_watched(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(feeds.time, "monotonic", lambda: now[0])
    feed = feeds.StreamFeed("a", False, EXPIRY)
    early = join(feed, None)
    feed.next_page()
    time, life = begun = parse_beginning(b"1700000000000000 abc")
    feed.take_page(None, [], None, begun)
    now[0] += 10 * EXPIRY
    late = join(feed, None)
    assert place(early) == begun
    # So long after the last page it is nearly now.
    assert place(late) == (time + 9_900_000 * EXPIRY, life)
    # Nobody watches it here.
    feed.begin()
    feed.lose_touch()
    lost = Subscriber()
    feed.add(lost, None, in_touch=False)
    assert place(lost) == begun


def test_who_comes_back_to_a_beginning_has_a_gap_where_that_is_not_known_any_more():
    for seconds, items in (1, [event(1)]), (EXPIRY, [Gap("a", None), event(1)]):
        feed = live_feed()
        subscriber = join(feed, make_id(parse_beginning(b"1700000000000000 abc")))
        assert feed.next_page() == (0, 0)
        begun = parse_beginning(b"%d abc" % (1700000000000000 + seconds * 1_000_000))
        feed.take_page((1, 1), [((1, 1), (0, 0), event(1))], (1, 1), begun)
        assert subscriber.items == items


def test_a_gap_ends_before_what_comes_behind_it():
    feed, before, level = live_feed(), Subscriber(), Subscriber()
    feed.joining[before] = readings.Joiner(reached=(1, 2))
    feed.receive((1, 5), event(5))
    feed.subscribers[level] = None
    feed.receive((2, 3), event_at(2, 3))
    feed.receive((3, 1), event_at(3, 1))
    assert [item.id for item in before.items] == [
        make_id(position) for position in [(1, 4), (1, 5), (2, 2), (2, 3), (3, 1)]
    ]


def test_who_comes_back_to_the_end_of_a_gap_gets_what_came_behind_it():
    # The first event of an epoch, which begins behind what nobody has any more.
    feed = live_feed()
    subscriber = join(feed, since(5))
    feed.next_page()
    stored = [((2, 1), (1, 3), event_at(2, 1))]
    feed.take_page((2, 1), stored, (2, 1))
    gap, first = subscriber.items
    assert (gap, gap.id, first) == (Gap("a", None), make_id((2, 0)), event_at(2, 1))
    back = join(feed, gap.id)
    feed.next_page()
    feed.take_page((2, 1), stored, (2, 1))
    assert back.items == [first]
