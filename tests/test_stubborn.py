"""Tasks that go on though they were cancelled."""

import asyncio
import concurrent.futures
import contextlib
import gc
import re
import sys
import types
from collections.abc import Coroutine

import pytest

from pyramid_asgi_consumers import async_views as coroutines
from pyramid_asgi_consumers import quirks, stubborn
from pyramid_asgi_consumers.async_views import run_on_own_loop
from pyramid_asgi_consumers.raised import StandIn, contained, outcome, separate
from pyramid_asgi_consumers.wsgi.bridge import WSGIBridge


class Swallower:
    """Goes on when it is cancelled, until it is released."""

    def __init__(self):
        self.began = asyncio.Event()
        self.cancellations = 0
        self.cancelled = asyncio.Event()
        self.released = asyncio.Event()

    async def __call__(self):
        self.began.set()
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self.cancellations += 1
                self.cancelled.set()
        return "released"


@pytest.fixture
async def swallower():
    swallower = Swallower()
    yield swallower
    swallower.released.set()
    await asyncio.sleep(0)


async def started(swallower):
    task = asyncio.ensure_future(swallower())
    await swallower.began.wait()
    return task


async def test_what_ends_is_waited_for(caplog):
    ended = []

    async def clean_up():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append(True)

    tasks = [asyncio.ensure_future(clean_up()) for _ in "ab"]
    await asyncio.sleep(0)
    await stubborn.end(tasks, 20)
    assert (ended, caplog.messages) == ([True, True], [])


async def test_what_goes_on_is_left_alone(swallower, caplog):
    task = await started(swallower)
    await stubborn.end([task], 0.01)
    assert not task.done()
    assert task not in asyncio.all_tasks()
    assert swallower.cancellations == 1
    (message,) = caplog.messages
    assert re.fullmatch(
        r"Left alone, since it goes on 0\.01 s after it was cancelled: wait \(locks\.py:\d+\)",
        message,
    )
    swallower.released.set()
    assert await task == "released"


async def test_what_has_no_time_to_end_is_cancelled_all_the_same(swallower, caplog):
    stubborn_one = await started(swallower)
    ended = []

    async def clean_up():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    task = asyncio.ensure_future(clean_up())
    await asyncio.sleep(0)
    await stubborn.end([stubborn_one, task], 0)
    assert (ended, swallower.cancellations) == ([True], 1)
    (message,) = caplog.messages
    assert message.startswith("Left alone, since it goes on 0 s after it was cancelled: wait (")


async def test_who_waits_may_be_cancelled_again(swallower):
    task = await started(swallower)
    waiting = asyncio.ensure_future(stubborn.end([task], None))
    for count in (1, 2):
        await asyncio.wait_for(swallower.cancelled.wait(), 20)
        swallower.cancelled.clear()
        assert swallower.cancellations == count
        waiting.cancel()
    await asyncio.wait_for(swallower.cancelled.wait(), 20)
    swallower.released.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 20)
    assert task.done()


class Compiled(Coroutine):
    """A coroutine that is not Python's own, as compiled modules have them."""

    def send(self, value):
        raise StopIteration

    def throw(self, *error):
        """Nobody does."""

    def __await__(self):
        """Nobody does."""


async def test_a_receive_whose_cancellation_middleware_swallows_ends_all_the_same(monkeypatch):
    # As on Python 3.10.
    monkeypatch.setattr(stubborn, "COUNTED", False)
    swallowed = []

    async def receives():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        swallowed.append(True)
        await asyncio.Event().wait()

    task = asyncio.ensure_future(receives())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait_for(stubborn.ended(task), 20)
    assert swallowed
    assert task.cancelled()


async def test_a_coroutine_that_is_not_python_s_own_has_its_place_too():
    task = asyncio.get_running_loop().create_task(Compiled())
    assert re.match("<.*Compiled object", stubborn.place(task))
    await task


def test_an_event_loop_of_a_view_leaves_behind_what_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(stubborn, "PATIENCE", 0.01)

    tasks = []

    async def view():
        tasks.append(await started(Swallower()))
        return "done"

    assert run_on_own_loop(view()) == "done"
    tasks.clear()
    gc.collect()
    assert caplog.messages[0].startswith("Left alone, since it goes on 0.01 s after")


async def test_async_views_are_cancelled_when_the_time_for_views_is_over(swallower, caplog):
    gave_up = asyncio.Event()

    async def gives_up():
        gave_up.set()
        await asyncio.Event().wait()

    bridge = WSGIBridge(None, shutdown_timeout=0.01)
    loop = asyncio.get_running_loop()
    arguments = (loop, None, bridge.awaited)
    views = [
        bridge.pool.run(coroutines.run_on_loop, each(), *arguments)
        for each in (swallower, gives_up)
    ]
    calls = [asyncio.ensure_future(view) for view in views]
    await asyncio.wait_for(swallower.began.wait(), 20)
    await asyncio.wait_for(gave_up.wait(), 20)
    await bridge.drain()
    assert caplog.messages[0] == "Views still run after 0.01 s; they are left alone"
    assert "it goes on 0.01 s after it was cancelled" in caplog.messages[1]
    swallower.released.set()
    assert await asyncio.wait_for(calls[0], 20) == "released"
    with pytest.raises(concurrent.futures.CancelledError):
        await asyncio.wait_for(calls[1], 20)
    assert bridge.awaited == set()


# Hypercorn, which waits for ever.


class Terminated:
    """Its context."""

    def __init__(self, is_set):
        self.terminated = self
        self.is_set = lambda: is_set


class Config:
    graceful_timeout = 0.01


@pytest.fixture(params=["alone", "within another"])
async def hypercorn(request, monkeypatch):
    """Hypercorn's module is there; what is returned has it serve, and stop."""
    ends = asyncio.Event()
    tasks = []

    async def worker_serve(stops):
        config = Config()
        await asyncio.sleep(0)
        context = Terminated(stops)
        await ends.wait()
        return config, context

    async def serve(stops):
        await worker_serve(stops)

    async def begin(stops):
        coroutine = worker_serve if request.param == "alone" else serve
        tasks.append(asyncio.ensure_future(coroutine(stops)))
        # Once before it has a context, and with one.
        await asyncio.sleep(0)
        assert quirks.patience() is None
        await asyncio.sleep(0)

    module = types.ModuleType("hypercorn.asyncio.run")
    module.worker_serve = worker_serve
    monkeypatch.setitem(sys.modules, "hypercorn.asyncio.run", module)

    async def end():
        ends.set()
        await asyncio.gather(*tasks)

    begin.end = end
    yield begin
    await end()


async def test_a_connection_of_hypercorn_is_waited_for_while_it_serves(hypercorn):
    await hypercorn(stops=False)
    assert quirks.patience() is None


async def test_a_connection_of_hypercorn_is_left_alone_when_it_stops(hypercorn, swallower, caplog):
    await hypercorn(stops=True)
    awaited, runs = separate(swallower(), asyncio.current_task())
    connection = asyncio.ensure_future(awaited)
    await swallower.began.wait()
    connection.cancel()
    await asyncio.wait({connection}, timeout=20)
    assert connection.cancelled()
    assert not runs.done()
    assert caplog.messages[0].startswith("Left alone, since it goes on 0.01 s after")


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_consumer_on_hypercorn_may_be_cancelled_before_it_begins(
    hypercorn, swallower, wrapped
):
    await hypercorn(stops=False)
    awaitable = asyncio.ensure_future(asyncio.sleep(0)) if wrapped else swallower()
    awaited, runs = separate(awaitable, asyncio.current_task())
    runs.cancel()
    # That its coroutine was never awaited would be a warning, so an error.
    with pytest.raises(StandIn):
        await awaited
    gc.collect()
    assert not swallower.began.is_set()


async def test_a_hypercorn_that_stops_is_looked_for_once(hypercorn):
    # Each look goes over all tasks, and all connections want to know.
    await hypercorn(stops=True)
    assert quirks.patience() == Config.graceful_timeout
    await hypercorn.end()
    assert quirks.patience() == Config.graceful_timeout


async def test_without_hypercorn_there_is_no_bound(monkeypatch):
    monkeypatch.delitem(sys.modules, "hypercorn.asyncio.run", raising=False)
    assert quirks.patience() is None
    assert not quirks.waits_for_ever()


async def test_what_a_task_returns_as_it_is_cancelled_is_returned(swallower):
    task = asyncio.ensure_future(contained(swallower()))
    waiting = asyncio.ensure_future(outcome(task))
    await swallower.began.wait()
    waiting.cancel()
    await asyncio.wait_for(swallower.cancelled.wait(), 20)
    swallower.released.set()
    assert await asyncio.wait_for(waiting, 20) == "released"


async def swallow():
    """Go on for two seconds, whatever is cancelled."""
    for _ in range(20):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)


@pytest.fixture(params=["counted", "not counted"])
def counting(request, monkeypatch):
    """Whether tasks count how often they were cancelled: Python 3.10's do not."""
    monkeypatch.setattr(stubborn, "COUNTED", stubborn.COUNTED and request.param == "counted")


def test_a_loop_that_ends_waits_for_no_task_that_goes_on(monkeypatch, caplog, counting):
    monkeypatch.setattr(stubborn, "PATIENCE", 0.05)

    async def main():
        kept.append(asyncio.create_task(swallow()))
        await asyncio.sleep(0)
        stubborn.outlive(asyncio.get_running_loop())

    kept = []
    asyncio.run(main())
    assert "Ended, since it goes on 0.05 s after it was cancelled: s" in caplog.text


def test_a_loop_that_goes_on_keeps_its_tasks(monkeypatch, caplog, counting):
    monkeypatch.setattr(stubborn, "PATIENCE", 0)

    async def main():
        task = asyncio.create_task(swallow())
        await asyncio.sleep(0)
        task.cancel()
        stubborn.outlive(asyncio.get_running_loop())
        await task

    asyncio.run(main())
    assert "Ended" not in caplog.text
