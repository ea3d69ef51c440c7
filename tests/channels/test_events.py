"""Events and their encoding, what backends share, and what waits for a subscriber."""

import copy
import pickle
import subprocess
import sys
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_asgi_consumers.channels import Channels, Event, Gap, subscriptions
from pyramid_asgi_consumers.channels import events as events_module
from pyramid_asgi_consumers.channels.events import decode, encode, make_event
from pyramid_asgi_consumers.channels.feeds import Feed, catch_up
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.positions import NOWHERE
from pyramid_asgi_consumers.exceptions import ChannelsError, InvalidEvent, SubscriptionOverflow

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
    monkeypatch.setattr(events_module, "MOST_PARSED", 12)
    monkeypatch.setattr(events_module, "PARSED", 0)
    monkeypatch.setattr(Event, "data", events_module._Parsed())
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
import tracemalloc
from pyramid_asgi_consumers.channels import events

events.MOST_PARSED //= 10
tracemalloc.start()
for number in range(6_000):
    events.make_event("a", (1, number), b"j1").data
print(tracemalloc.get_traced_memory()[0] / events.MOST_PARSED)
"""


def test_events_that_were_read_and_are_gone_cost_no_more_than_those_that_are_not():
    command = [sys.executable, "-c", READ]
    found = subprocess.run(command, check=True, capture_output=True, timeout=60)
    # 2,100 of them are remembered, with a weak reference, a tuple and a number each.
    assert 0.25 < float(found.stdout) < 2


def test_what_interrupts_the_parsing_of_an_event_parses_its_own(monkeypatch):
    parsed = events_module._Parsed()
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
from pyramid_asgi_consumers.channels import Channels, events
from pyramid_asgi_consumers.channels.memory import MemoryBackend

# An event is nearly as much as a quarter of this: the tenth of both shows the same.
events.MOST_PARSED //= 10

async def main():
    channels = Channels(MemoryBackend(history=10))
    data = [[] for _ in range(35_000)]
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
    # What traces the lines for the coverage takes a little, too.
    assert 0.9 < texts_that_wait(1, "keep") < 1.5


def test_what_others_have_read_does_not_wait_parsed():
    # As much as the newest four may be parsed, at most, which take 25 times as much.
    assert 9 < texts_that_wait(10, "read") < 10 + 4 * 30


async def test_what_is_lost_is_logged_once_a_minute(monkeypatch, caplog):
    now = 1000.0
    monkeypatch.setattr(subscriptions.time, "monotonic", lambda: now)
    overflows = subscriptions.Overflows()
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


modest = settings(deadline=None, max_examples=100)


# What is encoded, positions, and feeds.

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
