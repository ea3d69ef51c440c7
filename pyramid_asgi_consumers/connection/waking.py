"""A websocket's ``receive`` that returns when the websocket is closed from this side."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pyramid_asgi_consumers.stubborn import COUNTED

Event = dict[str, Any]


class Wakeable:
    """Has :meth:`receive` in place of ``receive``, which is the server's.

    No server can be relied on to tell of a close that its application has sent: some wait for the
    client's answer first.
    """

    def __init__(self, receive: Callable[[], Awaitable[Event]]) -> None:
        self._receive = receive
        # The tasks that wait, and how often each had been cancelled before.
        self._waiting: dict[asyncio.Task[Any], int] = {}
        self._woken: set[asyncio.Task[Any]] = set()
        self._end: Event | None = None
        self._was_told = False

    def wake(self, end: Event) -> None:
        """Return ``end`` to whoever waits, or else to who comes next, and no event any more."""
        self._end = end
        for task in self._waiting:
            self._was_told = True
            self._woken.add(task)
            task.cancel()

    async def receive(self) -> Event:
        """The next event."""
        if self._end is not None:
            if self._was_told:
                # There is nothing to come. Who goes on is cancelled.
                await asyncio.get_running_loop().create_future()
            self._was_told = True
            return self._end
        task: Any = asyncio.current_task()
        self._waiting[task] = task.cancelling() if COUNTED else 0
        try:
            event = await self._receive()
        except (asyncio.CancelledError, Exception):
            if not self._was_woken(task):
                raise
        else:
            if not self._was_woken(task):
                return event
        finally:
            del self._waiting[task]
        return self._end  # type: ignore[return-value]  # who was woken finds it

    def _was_woken(self, task: "asyncio.Task[Any]") -> bool:
        # Whether that is why it is cancelled, if it is, and nobody else has cancelled it.
        if task not in self._woken:
            return False
        self._woken.discard(task)
        return not COUNTED or task.uncancel() <= self._waiting[task]
