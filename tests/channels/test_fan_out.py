"""What goes to many is divided among turns of the event loop."""

import asyncio
import contextlib
import contextvars
import gc
import itertools
import weakref
from unittest.mock import Mock

import pytest

from pyramid_asgi_consumers.channels import fan_out
from pyramid_asgi_consumers.channels.events import make_event
from tests.support.wsgi import wait_until

MANY = 5 * fan_out.SLICE


class Reader:
    """Notes in which turn of the loop each event came, and what it was."""

    def __init__(self, subscription, turns):
        self.got = []
        self.turns = []
        self._subscription = subscription
        self._turns = turns

    async def run(self):
        async for event in self._subscription:
            self.got.append(event.data)
            self.turns.append(self._turns[0])


@contextlib.asynccontextmanager
async def audience(channels, count, **options):
    turns = [0]
    async with contextlib.AsyncExitStack() as stack:
        readers, tasks = [], []
        for _ in range(count):
            subscription = await stack.enter_async_context(channels.subscribe("news", **options))
            readers.append(Reader(subscription, turns))
            tasks.append(asyncio.create_task(readers[-1].run()))
        await asyncio.sleep(0)
        counting = asyncio.create_task(count_turns(turns))
        try:
            yield readers
        finally:
            for task in (*tasks, counting):
                task.cancel()
            await asyncio.gather(*tasks, counting, return_exceptions=True)


async def count_turns(turns):
    while True:
        turns[0] += 1
        await asyncio.sleep(0)


async def test_no_turn_of_the_loop_has_more_than_a_slice(channels):
    async with audience(channels, MANY) as readers:
        await channels.publish("news", "a")
        await wait_until(lambda: all(reader.got for reader in readers))
    turns = [reader.turns[0] for reader in readers]
    assert [reader.got for reader in readers] == [["a"]] * MANY
    assert max(turns.count(turn) for turn in set(turns)) <= fan_out.SLICE
    # Those who came first are served first.
    assert turns == sorted(turns)


async def test_slow_serving_ends_a_slice_sooner(channels, monkeypatch):
    monkeypatch.setattr(fan_out, "SECONDS", 0.0)
    async with audience(channels, 5 * fan_out.FEW) as readers:
        await channels.publish("news", "a")
        await wait_until(lambda: all(reader.got for reader in readers))
    turns = [reader.turns[0] for reader in readers]
    assert {turns.count(turn) for turn in turns} == {fan_out.FEW}


async def test_who_publishes_without_a_pause_loses_nothing(channels):
    async with audience(channels, MANY, max_queue=2) as readers:
        for number in range(30):
            await channels.publish("news", number)
        await wait_until(lambda: all(len(reader.got) == 30 for reader in readers))
    assert channels.overflows.total == 0
    assert all(reader.got == [*range(30)] for reader in readers)


async def test_a_publisher_waits_for_those_before_it_and_for_no_others():
    loop = asyncio.get_running_loop()
    fanned_out = fan_out.FanOut()

    class Again:
        """Always has something."""

        times = 0

        def serve(self):
            self.times += 1
            fanned_out.serve_later(self)

    again = Again()
    while fanned_out.has_room(loop):
        pass
    fanned_out.serve_later(again)
    await asyncio.wait_for(fanned_out.turn(), 20)
    assert again.times


async def test_each_gets_all_in_order_however_they_are_served(channels):
    async with audience(channels, MANY) as readers:
        publish = channels.backend.publish_many
        # From a thread nobody waits.
        for number in range(0, 60, 3):
            messages = [("news", b"j%d" % (number + each)) for each in range(3)]
            await asyncio.to_thread(publish, messages)
        await wait_until(lambda: all(len(reader.got) == 60 for reader in readers))
    assert all(reader.got == [*range(60)] for reader in readers)


async def full(channels):
    """A subscription for which something waits, as this turn has no room."""
    loop = asyncio.get_running_loop()
    subscription = await channels.subscribe("news").__aenter__()
    waiting = asyncio.create_task(subscription.__anext__())
    await asyncio.sleep(0)
    while fan_out.fan_out_of(loop).has_room(loop):
        pass
    return subscription, waiting


def put(subscription, *numbers):
    for number in numbers:
        subscription.put(make_event("news", (1, number), b"j%d" % number))


async def test_what_comes_while_one_waits_to_be_served_is_behind(channels):
    subscription, waiting = await full(channels)
    put(subscription, 1, 2, 3)
    assert (await waiting).data == 1
    assert [(await subscription.__anext__()).data for _ in range(2)] == [2, 3]
    await subscription.__aexit__()


async def test_who_is_cancelled_before_it_is_served_loses_nothing(channels):
    subscription, waiting = await full(channels)
    put(subscription, 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    again = asyncio.create_task(subscription.__anext__())
    assert (await again).data == 1
    put(subscription, 2)
    assert (await subscription.__anext__()).data == 2
    await subscription.__aexit__()


async def test_who_leaves_before_it_is_served_is_served_no_more(channels):
    subscription, waiting = await full(channels)
    put(subscription, 1)
    await subscription.__aexit__()
    with pytest.raises(StopAsyncIteration):
        await waiting
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_the_slices_have_nothing_of_who_publishes(channels):
    loop = asyncio.get_running_loop()
    variable = contextvars.ContextVar("variable")
    seen = []
    subscription, waiting = await full(channels)
    subscription.hand_on(lambda item: not seen.append(variable.get(None)))
    await asyncio.sleep(0)
    variable.set("of the publisher")
    while fan_out.fan_out_of(loop).has_room(loop):
        pass
    put(subscription, 1)
    await wait_until(lambda: seen)
    assert seen == [None]
    waiting.cancel()
    await subscription.__aexit__()


async def test_threads_at_work_have_their_turn_between_slices(monkeypatch):
    loop = asyncio.get_running_loop()
    fanned_out = fan_out.FanOut()
    monkeypatch.setattr(fan_out, "PAUSE", 0.01)
    monkeypatch.setattr(fan_out, "threads_work", lambda: True)
    times = []

    class One:
        def serve(self):
            times.append(loop.time())

    while fanned_out.has_room(loop):
        pass
    for _ in range(3 * fan_out.SLICE):
        fanned_out.serve_later(One())
    # They work for ever, which does not keep those who were there first from being served.
    await asyncio.wait_for(fanned_out.turn(), 20)
    assert len(times) == 3 * fan_out.SLICE
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert sum(pause >= 0.009 for pause in pauses) >= 2


def test_a_loop_that_was_closed_is_forgotten():
    async def crowd():
        loop = asyncio.get_running_loop()
        fanned_out = fan_out.fan_out_of(loop)
        while fanned_out.has_room(loop):
            pass
        fanned_out.serve_later(Mock())
        await asyncio.wait_for(fanned_out.turn(), 20)
        return weakref.ref(loop)

    loop = asyncio.run(crowd())
    gc.collect()
    assert loop() is None
