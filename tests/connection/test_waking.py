"""A ``receive`` that returns when the websocket is closed from this side."""

import asyncio
import contextlib

import pytest

from pyramid_asgi_consumers.connection.waking import Wakeable
from pyramid_asgi_consumers.stubborn import COUNTED
from tests.support.channels import until

END = {"type": "websocket.disconnect", "code": 4401, "reason": ""}

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


async def waiting(wakeable):
    """A task that receives, and waits."""
    task = asyncio.ensure_future(wakeable.receive())
    await until(lambda: wakeable._waiting)
    return task


async def test_events_come_through():
    queue = asyncio.Queue()
    wakeable = Wakeable(queue.get)
    task = await waiting(wakeable)
    queue.put_nowait("event")
    assert await task == "event"
    assert not wakeable._waiting


async def test_who_waits_is_woken_and_is_not_cancelled():
    wakeable = Wakeable(asyncio.Queue().get)
    task = await waiting(wakeable)
    wakeable.wake(END)
    assert await task == END
    assert not wakeable._waiting
    assert not wakeable._woken
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(wakeable.receive(), 0.01)


async def test_who_comes_later_hears_it_once():
    queue = asyncio.Queue()
    queue.put_nowait("event")
    wakeable = Wakeable(queue.get)
    wakeable.wake(END)
    assert await wakeable.receive() == END
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(wakeable.receive(), 0.01)


async def test_an_event_that_comes_in_the_same_moment_is_not_given_any_more():
    queue = asyncio.Queue()
    wakeable = Wakeable(queue.get)
    task = await waiting(wakeable)
    queue.put_nowait("event")
    wakeable.wake(END)
    assert await task == END


@pytest.mark.parametrize("raises", [True, False])
async def test_what_a_server_makes_of_the_cancellation_is_no_matter(raises):
    async def receive():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if raises:
            raise RuntimeError("closed")
        return "event"

    wakeable = Wakeable(receive)
    task = await waiting(wakeable)
    wakeable.wake(END)
    assert await task == END
    assert getattr(task, "cancelling", int)() == 0


@pytest.mark.parametrize("first", ["wakes", "cancels"])
async def test_who_is_cancelled_by_others_too_is_cancelled(first):
    wakeable = Wakeable(asyncio.Queue().get)
    task = await waiting(wakeable)
    calls = [lambda: wakeable.wake(END), task.cancel]
    if first == "cancels":
        calls.reverse()
    calls[0]()
    calls[1]()
    await asyncio.wait({task})
    # Python 3.10 does not count.
    assert task.cancelled() == COUNTED


async def test_a_cancellation_without_a_close_is_one():
    wakeable = Wakeable(asyncio.Queue().get)
    task = await waiting(wakeable)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert not wakeable._waiting
