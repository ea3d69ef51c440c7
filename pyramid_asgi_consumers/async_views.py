"""Awaits what an async view returned, for the worker thread that called the view."""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from pyramid.threadlocal import manager as threadlocals

from pyramid_asgi_consumers import stubborn
from pyramid_asgi_consumers.exceptions import ClientDisconnected
from pyramid_asgi_consumers.raised import carried, contained, outcome, unwrapped
from pyramid_asgi_consumers.turns import until_left

#: Where a request's environ has the arguments of :func:`run_on_loop` that are the server's.
LOOP_ARGUMENTS = "pyramid_asgi_consumers.loop_arguments"

#: What a thread does until the future is done, where it has more to do than to wait, as a test has.
until_done: "contextvars.ContextVar[Callable[[Future[Any]], object] | None]" = (
    contextvars.ContextVar("until_done", default=None)
)

Receive = Callable[[], Awaitable[dict[str, Any]]]


def run_on_loop(
    awaitable: Awaitable[Any],
    loop: asyncio.AbstractEventLoop,
    receive: Receive | None,
    awaited: "set[asyncio.Task[Any]]",
) -> Any:
    """Run ``awaitable`` on ``loop``, and wait in this thread, which is not the loop's.

    Returns its result or raises what it raises. It has this thread's contextvars. ``receive`` is
    that of the request, None where somebody else reads it; ``awaited`` has the tasks that this
    makes, while they run. Where the client leaves, the awaitable
    is cancelled and :class:`.ClientDisconnected` raised, an ``Exception``, on which transactions
    abort. For a ``CancelledError`` of its own a :class:`.StandIn` is raised, an ``Exception``, too.
    """
    coroutine = _until_left(awaitable, receive, awaited)
    try:
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        if inspect.iscoroutine(awaitable):
            # Nobody will await it.
            awaitable.close()
        raise
    wait = until_done.get()
    if wait is not None:
        wait(future)
    return unwrapped(future.result)


async def _until_left(
    awaitable: Awaitable[Any], receive: Receive | None, awaited: "set[asyncio.Task[Any]]"
) -> Any:
    task = asyncio.ensure_future(contained(awaitable))
    own: Any = asyncio.current_task()
    for each in (task, own):
        awaited.add(each)
        each.add_done_callback(awaited.discard)
    if receive is None:
        return await outcome(task)
    watcher = asyncio.ensure_future(until_left(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        has_ended = task.done()
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.wait((task,))
        await stubborn.ended(watcher)
    if has_ended or not task.cancelled():
        return await outcome(task)
    raise ClientDisconnected("The client left while its view was awaited")


async def cancel_views(awaited: "set[asyncio.Task[Any]]", seconds: float) -> None:
    """Cancel the tasks that :func:`run_on_loop` has made on this event loop, and that still run.

    They are waited for ``seconds``, and a few at most.
    """
    loop = asyncio.get_running_loop()
    tasks = [task for task in list(awaited) if task.get_loop() is loop]
    await stubborn.end(tasks, min(seconds, stubborn.PATIENCE))


def run_on_own_loop(awaitable: Awaitable[Any]) -> Any:
    """Run ``awaitable`` on an event loop made for it, in this thread; return its result.

    Raises what it raises, a :class:`.StandIn` for a ``CancelledError``, which is no ``Exception``.

    Pyramid's thread-locals are hidden from it, as they are on a server's loop.
    """
    own = OwnLoop()
    try:
        return own.run(_contained(awaitable))
    finally:
        own.close()


async def _contained(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except asyncio.CancelledError as error:
        raise carried(error) from error


class OwnLoop:
    """An event loop of a thread, without Pyramid's thread-locals."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Run the loop until ``awaitable`` is done; return its result, or raise what it raises."""
        threadlocals.push(threadlocals.default())
        try:
            return self._loop.run_until_complete(awaitable)
        finally:
            threadlocals.pop()

    def close(self) -> None:
        """End what still runs, which nobody will run any more, and the loop."""
        try:
            self.run(_end_others())
            self.run(self._loop.shutdown_asyncgens())
            self.run(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


async def _end_others() -> None:
    await stubborn.end(asyncio.all_tasks() - {asyncio.current_task()}, stubborn.PATIENCE)
