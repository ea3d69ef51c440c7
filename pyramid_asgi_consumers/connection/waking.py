"""A websocket's ``receive`` that returns when the websocket is closed from this side."""

# The annotations of inner functions would be made for each connection, and kept.
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pyramid_asgi_consumers.stubborn import COUNTED

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]


def wakeable(
    receive: Receive, loop: asyncio.AbstractEventLoop
) -> tuple[Receive, Callable[[Event], None]]:
    """Return a ``receive`` in place of the server's, and ``wake(end)``, both for ``loop``.

    Whoever waits in the former gets ``end`` then, or else who comes next, and no event any more. No
    server can be relied on to tell of a close that its application has sent: some wait for the
    client's answer first.
    """
    # The task that waits, and others that do, too: this costs something for each message.
    first: Any = None
    others: set[asyncio.Task[Any]] = set()
    end: Event | None = None
    was_told = False
    current_task = asyncio.current_task

    def wake(event: Event) -> None:
        nonlocal end, was_told
        end = event
        for task in (first, *others):
            if task is not None:
                was_told = True
                task.cancel()

    async def woken_receive() -> Event:
        nonlocal first
        if end is not None:
            return await late(end)
        task: Any = current_task(loop)
        if first is not None:
            return await other(task)
        first = task
        before = task.cancelling() if COUNTED else 0
        try:
            event = await receive()
        except (asyncio.CancelledError, Exception):
            if end is None:
                raise
        finally:
            first = None
        return event if end is None else woken(task, before, end)

    async def other(task: Any) -> Event:
        before = task.cancelling() if COUNTED else 0
        others.add(task)
        try:
            event = await receive()
        except (asyncio.CancelledError, Exception):
            if end is None:
                raise
        finally:
            others.discard(task)
        return event if end is None else woken(task, before, end)

    def woken(task: Any, before: int, end: Event) -> Event:
        # Who was cancelled by others, too, is cancelled.
        if COUNTED and task.uncancel() > before:
            raise asyncio.CancelledError
        return end

    async def late(end: Event) -> Event:
        nonlocal was_told
        if was_told:
            # There is nothing to come. Who goes on is cancelled.
            await loop.create_future()
        was_told = True
        return end

    return woken_receive, wake
