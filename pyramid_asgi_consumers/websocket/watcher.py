"""Cancels a function of ``add_websocket`` whose client has left.

For other consumers see ``connection.leaving``, which uses :class:`Watcher`, too.
"""

# The annotations of inner functions would be made for each connection, and kept.
from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from pyramid_asgi_consumers.raised import StandIn, caught, outcome

log = logging.getLogger(__name__)

# For so many seconds a consumer may be busy before its client is looked after.
INTERVAL = 0.5

# So many messages, and about so many bytes, are taken from the server in advance.
MESSAGES = 16
BYTES = 64 * 1024

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]


class Watcher:
    """Takes a websocket's events from the server, for a function that may not ask for them.

    ``receive`` is the server's. While the function waits in :meth:`receive`, nothing else happens.
    Where it does not for ``INTERVAL``, events are taken in advance: messages are kept for the next
    :meth:`receive`, up to ``MESSAGES`` or ``BYTES``, beyond which the server's flow control holds
    the client back; a disconnect is reported, and cancels a function that is run.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._receiving = False
        #: What takes events in advance, or has taken them; None when all of them are received.
        self._ahead: asyncio.Future[Any] | None = None
        # Few. An empty deque has room for 64.
        self._events: list[Event] = []
        self._size = 0
        self._disconnect: Event | None = None
        self._report: Callable[[Event], object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # What run() was given, and the function's task, for as long as it runs.
        self._task: Any = None
        self._left: Any = None
        self._name = ""
        self._leave_timeout = 0.0
        self._cancelled = False
        self._overdue: asyncio.TimerHandle | None = None

    async def receive(self) -> Event:
        """Return the next event. A call that is cancelled loses none.

        Raises RuntimeError while another task waits here.
        """
        if self._receiving:
            # Who tries again and again does not keep the other from its turn.
            await asyncio.sleep(0)
            raise RuntimeError("receive: another task is receiving from this websocket")
        self._receiving = True
        pending: Any = None
        try:
            if self._ahead is not None:
                return await self._from_ahead(self._ahead)
            pending = self._receive()
            return await pending
        except asyncio.CancelledError:
            # A coroutine has not taken an event yet; a future (as Granian 2.8.7 gives) may have.
            if asyncio.isfuture(pending) and pending.done() and not pending.cancelled():
                self._receiving = False
                self._ahead = pending
                if pending.exception() is None:
                    self._take(pending.result())
            raise
        finally:
            self._receiving = False
            if self._timer is None and self._report is not None:
                self._arm(self._report)

    async def _from_ahead(self, ahead: asyncio.Future[Any]) -> Event:
        if not self._events:
            # Were it awaited itself, it would be cancelled with this call.
            await asyncio.wait({ahead})
            if not self._events:
                self._ahead = None
                # Raises what the server has raised.
                ahead.result()
        event = self._events.pop(0)
        self._size -= _size(event)
        if not self._events and ahead.done() and not has_failed(ahead):
            self._ahead = None
        return event

    async def run(
        self,
        func: Callable[[], Awaitable[object]],
        left: Callable[[Event], object],
        name: str,
        leave_timeout: float,
    ) -> None:
        """Await ``func()``, which logs call ``name``, in a task of its own, and watch.

        Where the client leaves while ``func`` does not receive, ``left`` is called with the
        server's event, ``func`` is cancelled, and this returns when it has ended. One that has
        been :meth:`told` is cancelled after ``leave_timeout`` seconds. Whatever else ``func``
        raises is raised here, or a :class:`.StandIn` for what a task cannot raise. Cancelling this
        cancels ``func``.
        """
        self._left, self._name, self._leave_timeout = left, name, leave_timeout
        task = self._task = asyncio.create_task(_called(func))
        self.watch(self._cancel)
        try:
            await outcome(task)
        except StandIn:
            if not (self._cancelled and task.cancelled()):
                raise
        finally:
            await self.end()

    def _cancel(self, event: Event) -> None:
        self._cancelled = True
        self._left(event)
        self._task.cancel()

    def _give_up(self) -> None:
        log.warning(
            "%s goes on %g s after its client has left: cancelled", self._name, self._leave_timeout
        )
        self._cancelled = True
        self._task.cancel()

    def told(self) -> None:
        """The function knows that its client has left."""
        self.stop()
        if self._task is not None and self._overdue is None and not self._cancelled:
            loop = asyncio.get_running_loop()
            self._overdue = loop.call_later(self._leave_timeout, self._give_up)

    def closed(self) -> None:
        """The websocket is closed from this side, which the next event tells: there is room for it.

        The client may have sent so much that no event is taken in advance any more.
        """
        if not self._has_room() and _may_go_on(self._ahead):
            self._ahead = asyncio.create_task(self._look_ahead())

    def watch(self, report: Callable[[Event], object]) -> None:
        """Call ``report`` with the server's event where the client leaves and nobody receives."""
        self._report = report
        self._arm(report)

    def stop(self) -> None:
        """Watch no longer: the function has ended, or knows that the websocket is closed."""
        self._report = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def end(self) -> None:
        """Watch no longer, and take no event any more."""
        self.stop()
        self._task = self._left = None
        if self._overdue is not None:
            self._overdue.cancel()
        ahead, self._ahead = self._ahead, None
        self._events.clear()
        if ahead is not None and not ahead.done():
            ahead.cancel()
            await asyncio.wait({ahead})

    def _arm(self, report: Callable[[Event], object]) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look, report)

    def _look(self, report: Callable[[Event], object]) -> None:
        self._timer = None
        if self._receiving:
            return
        if self._disconnect is not None:
            # It came during a receive that was cancelled before it could return it.
            report(self._disconnect)
        elif self._has_room() and _may_go_on(self._ahead):
            self._ahead = asyncio.create_task(self._look_ahead())

    def _has_room(self) -> bool:
        return len(self._events) < MESSAGES and self._size < BYTES

    async def _look_ahead(self) -> None:
        # A function that receives again asks the server itself.
        more = True
        while more:
            self._take(await self._receive())
            more = self._disconnect is None and not self._receiving and self._has_room()

    def _take(self, event: Event) -> None:
        self._events.append(event)
        self._size += _size(event)
        if event["type"] == "websocket.disconnect":
            self._disconnect = event
            if not self._receiving and self._report is not None:
                self._report(event)


async def _called(func: Callable[[], Awaitable[object]]) -> None:
    task = asyncio.current_task()
    try:
        await func()
    except BaseException as error:
        raise caught(error, task)  # noqa: B904


def has_failed(taken: asyncio.Future[Any]) -> bool:
    """Whether ``taken``, which is done, has no event."""
    # Who ends a loop cancels all tasks, these too.
    return taken.cancelled() or taken.exception() is not None


def _may_go_on(ahead: asyncio.Future[Any] | None) -> bool:
    return ahead is None or (ahead.done() and not has_failed(ahead))


def _size(event: Event) -> int:
    return len(event.get("text") or event.get("bytes") or b"")
