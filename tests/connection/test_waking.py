"""A ``receive`` that returns when the websocket is closed from this side."""

import asyncio
import contextlib

import pytest

from pyramid_asgi_consumers.connection.waking import Wakeable
from pyramid_asgi_consumers.stubborn import COUNTED

END = {"type": "websocket.disconnect", "code": 4401, "reason": ""}

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


class Websocket:
    """A ``receive`` that can be woken, over the server's; or over a queue."""

    def __init__(self, receive=None):
        self.queue = asyncio.Queue()
        self._server = receive or self.queue.get
        self._waits = asyncio.Event()
        wakeable = Wakeable(self._waiting, asyncio.get_running_loop())
        self.receive, self.wake = wakeable.receive, wakeable.wake

    def _waiting(self):
        self._waits.set()
        return self._server()

    async def waiting(self):
        """A task that receives, and waits."""
        self._waits.clear()
        task = asyncio.ensure_future(self.receive())
        await asyncio.wait_for(self._waits.wait(), 20)
        return task


async def test_events_come_through():
    websocket = Websocket()
    task = await websocket.waiting()
    websocket.queue.put_nowait("event")
    assert await task == "event"


async def test_who_waits_is_woken_and_is_not_cancelled():
    websocket = Websocket()
    task = await websocket.waiting()
    websocket.wake(END)
    assert await task == END
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(websocket.receive(), 0.01)


async def test_all_who_wait_are_woken():
    websocket = Websocket()
    tasks = [await websocket.waiting() for _ in range(4)]
    for event in "a", "b":
        websocket.queue.put_nowait(event)
    assert [await task for task in tasks[:2]] == ["a", "b"]
    websocket.wake(END)
    assert [await task for task in tasks[2:]] == [END, END]


@pytest.mark.parametrize("place", [0, 1])
async def test_what_the_server_raises_is_raised(place):
    go = asyncio.Event()

    async def receive():
        await go.wait()
        raise RuntimeError("over")

    websocket = Websocket(receive)
    tasks = [await websocket.waiting() for _ in range(2)]
    go.set()
    with pytest.raises(RuntimeError, match="over"):
        await tasks[place]
    await asyncio.wait(tasks)
    assert tasks[1 - place].exception()


async def test_who_comes_later_hears_it_once():
    websocket = Websocket()
    websocket.queue.put_nowait("event")
    websocket.wake(END)
    assert await websocket.receive() == END
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(websocket.receive(), 0.01)


async def test_an_event_that_comes_in_the_same_moment_is_not_given_any_more():
    websocket = Websocket()
    task = await websocket.waiting()
    websocket.queue.put_nowait("event")
    websocket.wake(END)
    assert await task == END


@pytest.mark.parametrize("raises", [True, False])
async def test_what_a_server_makes_of_the_cancellation_is_no_matter(raises):
    async def receive():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if raises:
            raise RuntimeError("closed")
        return "event"

    websocket = Websocket(receive)
    task = await websocket.waiting()
    websocket.wake(END)
    assert await task == END
    assert getattr(task, "cancelling", int)() == 0


@pytest.mark.parametrize("first", ["wakes", "cancels"])
async def test_who_is_cancelled_by_others_too_is_cancelled(first):
    websocket = Websocket()
    task = await websocket.waiting()
    calls = [lambda: websocket.wake(END), task.cancel]
    if first == "cancels":
        calls.reverse()
    calls[0]()
    calls[1]()
    await asyncio.wait({task})
    # Python 3.10 does not count.
    assert task.cancelled() == COUNTED


async def test_a_cancellation_without_a_close_is_one():
    websocket = Websocket()
    task = await websocket.waiting()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
