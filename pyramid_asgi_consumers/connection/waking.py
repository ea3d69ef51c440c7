"""A websocket's ``receive`` that returns when the websocket is closed from this side."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pyramid_asgi_consumers.stubborn import COUNTED

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]


class Wakeable:
    """Has a :meth:`receive` in place of the server's, and :meth:`wake`, both for ``loop``.

    Whoever waits in the former gets the ``end`` of the latter then, or else who comes next, and no
    event any more. No server can be relied on to tell of a close that its application has sent:
    some wait for the client's answer first.
    """

    __slots__ = ("_end", "_first", "_loop", "_others", "_receive", "_was_told")

    def __init__(self, receive: Receive, loop: asyncio.AbstractEventLoop) -> None:
        self._receive = receive
        self._loop = loop
        # The task that waits, and others that do, too: this costs something for each message.
        self._first: Any = None
        self._others: list[asyncio.Task[Any]] = []
        self._end: Event | None = None
        self._was_told = False

    def wake(self, end: Event) -> None:
        """Give whoever waits in :meth:`receive` this ``end``."""
        self._end = end
        for task in (self._first, *self._others):
            if task is not None:
                self._was_told = True
                task.cancel()

    async def receive(self) -> Event:
        """The consumer's ``receive``."""
        if self._end is not None:
            return await self._late(self._end)
        task: Any = asyncio.current_task(self._loop)
        if self._first is not None:
            return await self._other(task)
        self._first = task
        before = task.cancelling() if COUNTED else 0
        try:
            event = await self._receive()
        except (asyncio.CancelledError, Exception):
            if self._end is None:
                raise
        finally:
            self._first = None
        return event if self._end is None else _woken(task, before, self._end)

    async def _other(self, task: Any) -> Event:
        before = task.cancelling() if COUNTED else 0
        self._others.append(task)
        try:
            event = await self._receive()
        except (asyncio.CancelledError, Exception):
            if self._end is None:
                raise
        finally:
            self._others.remove(task)
        return event if self._end is None else _woken(task, before, self._end)

    async def _late(self, end: Event) -> Event:
        if self._was_told:
            # There is nothing to come. Who goes on is cancelled.
            await self._loop.create_future()
        self._was_told = True
        return end


def _woken(task: Any, before: int, end: Event) -> Event:
    # Who was cancelled by others, too, is cancelled.
    if COUNTED and task.uncancel() > before:
        raise asyncio.CancelledError
    return end
