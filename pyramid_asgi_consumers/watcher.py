"""Notices that the client has left a function that does not receive."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pyramid_asgi_consumers.raised import StandIn, caught, outcome

# For so many seconds a function may be busy before its client is looked after.
INTERVAL = 0.5

Event = dict[str, Any]


class Watcher:
    """Takes a websocket's events from the server, for a function that may not ask for them.

    ``receive`` is the server's. While the function waits in :meth:`receive`, nothing else happens.
    Where it does not for ``INTERVAL``, one event is taken in advance: a message is kept for the
    next :meth:`receive`, and none is taken after it, so that the server's flow control holds the
    client back; a disconnect cancels the function.
    """

    def __init__(self, receive: Callable[[], Awaitable[Event]]) -> None:
        self._receive = receive
        self._receiving = False
        #: The event taken in advance, or the wait for it.
        self._ahead: asyncio.Task[Event] | None = None
        self._disconnect: Event | None = None
        self._cancel: Callable[[Event], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def receive(self) -> Event:
        """Return the next event. A call that is cancelled loses none.

        Raises RuntimeError while another task waits here.
        """
        if self._receiving:
            raise RuntimeError("receive: another task is receiving from this websocket")
        self._receiving = True
        pending: Any = None
        try:
            ahead = self._ahead
            if ahead is None:
                pending = self._receive()
                return await pending
            if not ahead.done():
                # Were it awaited itself, it would be cancelled with this call.
                await asyncio.wait({ahead})
            self._ahead = None
            return ahead.result()
        except asyncio.CancelledError:
            # A coroutine has not taken an event yet; a future (as Granian 2.8.7 gives) may have.
            if asyncio.isfuture(pending) and pending.done() and not pending.cancelled():
                self._ahead = asyncio.create_task(self._look_ahead(pending))
            raise
        finally:
            self._receiving = False
            if self._timer is None and self._cancel is not None:
                self._arm()

    async def run(
        self, func: Callable[[], Awaitable[object]], left: Callable[[Event], object]
    ) -> None:
        """Await ``func()`` in a task of its own, and watch.

        Where the client leaves while ``func`` does not receive, ``left`` is called with the
        server's event, ``func`` is cancelled, and this returns when it has ended. Whatever else
        ``func`` raises is raised here, or a :class:`.StandIn` for what a task cannot raise.
        Cancelling this cancels ``func``.
        """
        was_left = False

        async def called() -> None:
            try:
                await func()
            except BaseException as error:
                raise caught(error, task)  # noqa: B904

        def cancel(event: Event) -> None:
            nonlocal was_left
            was_left = True
            left(event)
            task.cancel()

        task = asyncio.create_task(called())
        self._cancel = cancel
        self._arm()
        try:
            await outcome(task)
        except StandIn:
            if not (was_left and task.cancelled()):
                raise
        finally:
            self.stop()
            if self._ahead is not None and not self._ahead.done():
                self._ahead.cancel()
                await asyncio.wait({self._ahead})

    def stop(self) -> None:
        """Watch no longer: ``func`` has ended, or knows that the websocket is closed."""
        self._cancel = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._receiving:
            return
        if self._ahead is None:
            self._ahead = asyncio.create_task(self._look_ahead())
        elif self._disconnect is not None:
            # It came during a receive that was cancelled before it could return it.
            self._report()

    async def _look_ahead(self, pending: asyncio.Future[Event] | None = None) -> Event:
        event = await (self._receive() if pending is None else pending)
        if event["type"] == "websocket.disconnect":
            self._disconnect = event
            if not self._receiving:
                self._report()
        return event

    def _report(self) -> None:
        if self._cancel is not None:
            self._cancel(self._disconnect)
