"""Notices that a client has left while its consumer does not receive.

:class:`SenderWatcher` is for websockets, but not for the functions of ``add_websocket``, which have
``websocket.watcher``. :class:`RequestWatcher` is for http requests; a :class:`Sweep` looks after
all of them.
"""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Mapping
from typing import Any

from pyramid_asgi_consumers import stubborn
from pyramid_asgi_consumers.handshake.connected import DEFAULT_LEAVE_TIMEOUT, LEAVE_TIMEOUT
from pyramid_asgi_consumers.handshake.early import waits_for_leave
from pyramid_asgi_consumers.raised import StandIn
from pyramid_asgi_consumers.websocket import watcher
from pyramid_asgi_consumers.websocket.watcher import (
    BYTES,
    MESSAGES,
    Event,
    Receive,
    Watcher,
    has_failed,
)

log = logging.getLogger(__name__)

# For so many seconds a server may keep it to itself that a client has left.
SOON = 0.1


class _Ending:
    """Cancels a consumer whose client has left, and tells that from a cancellation by others."""

    # Of the class, where each connection need not set it.

    #: Whether the client is known to have left.
    left = False
    _task: "asyncio.Task[Any]"
    _cancelled = False
    _overdue: asyncio.TimerHandle | None = None

    def told(self, name: str, scope: Mapping[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        """The consumer, which logs call ``name``, has been refused to send, as its client has left.

        Where it goes on, it is cancelled after the seconds that ``scope`` has under
        :data:`LEAVE_TIMEOUT`.
        """
        if self._overdue is None and not self._cancelled:
            seconds = scope.get(LEAVE_TIMEOUT, DEFAULT_LEAVE_TIMEOUT)
            self._overdue = loop.call_later(seconds, self._give_up, name, seconds)

    def _give_up(self, name: str, seconds: float) -> None:
        log.warning("%s goes on %g s after its client has left: cancelled", name, seconds)
        self._cancel()

    def _cancel(self) -> None:
        self._before = getattr(self._task, "cancelling", int)()
        self._cancelled = True
        self._task.cancel()

    def has_cancelled(self, error: BaseException) -> bool:
        """Whether ``error`` came of the consumer's being cancelled here, and of nothing else."""
        if not self._cancelled:
            return False
        if isinstance(error, StandIn):
            return self._task.cancelled()
        # Python 3.10 does not count: there a cancellation by others is not told from ours.
        return getattr(self._task, "cancelling", int)() <= self._before + 1

    def _cancel_no_more(self) -> None:
        # The consumer has ended.
        if self._overdue is not None:
            self._overdue.cancel()
        if self._cancelled:
            getattr(self._task, "uncancel", int)()


class SenderWatcher(_Ending):
    """Looks after the client of any websocket consumer that sends and does not receive.

    ``receive`` is the server's. Who sends calls :meth:`look` now and then: where the consumer waits
    for no event, and has not for ``INTERVAL``, they are taken in advance from then on, as a
    :class:`Watcher` does.
    """

    _watcher: Watcher | None = None

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen: Any = ...
        self._due = 0.0

    def watch(self, task: "asyncio.Task[Any]") -> None:
        """Have ``task``, the consumer's, be the one that is cancelled."""
        self._task = task

    def look(self, asked: Any, now: float) -> Receive:
        """Look after the client, if it is time to; return the ``receive`` that gives all events.

        ``asked`` is what that has returned last, None if it was not called yet; ``now`` the time.
        """
        if self._watcher is not None:
            return self._in_turn
        if now >= self._due:
            self._due = now + watcher.INTERVAL
            if self._seen is not asked:
                self._seen = asked
            elif asked is None or _is_over(asked):
                self._watcher = Watcher(self._receive)
                self._watcher.watch(self._note)
                self._turn = asyncio.Lock()
                return self._in_turn
        return self._receive

    def _note(self, event: Event) -> None:
        self.left = True

    async def _in_turn(self) -> Event:
        # A watcher has one task that waits, and servers have any number.
        async with self._turn:
            # look() has made it.
            return await self._watcher.receive()  # type: ignore[union-attr]

    async def noted(self, receive: Receive) -> Event:
        """Return what ``receive()`` does; note where the client has left."""
        if self.left:
            # Who asks again and again does not keep others from their turn.
            await asyncio.sleep(0)
        event = await receive()
        if event["type"] == "websocket.disconnect":
            self.left = True
        return event

    async def end(self) -> None:
        """Watch no longer, and have nobody cancelled: the consumer has ended."""
        self._cancel_no_more()
        if self._watcher is not None:
            await self._watcher.end()


def _is_over(awaitable: Any) -> bool:
    if inspect.iscoroutine(awaitable):
        return inspect.getcoroutinestate(awaitable) == inspect.CORO_CLOSED
    return asyncio.isfuture(awaitable) and awaitable.done()


class Sweep:
    """Looks after the clients of http requests, every ``INTERVAL``; for one event loop.

    Requests that end sooner cost no more than their entry here.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        #: Requests, and whether they were there already when it was looked last.
        self.watched: dict[RequestWatcher, bool] = {}
        self._is_due = False

    def add(self, request: "RequestWatcher") -> None:
        self.watched[request] = False
        if not self._is_due:
            self._is_due = True
            self.loop.call_later(watcher.INTERVAL, self._look)

    def _look(self) -> None:
        for request, seen in list(self.watched.items()):
            if seen:
                request.look()
            else:
                self.watched[request] = True
        self._is_due = bool(self.watched)
        if self._is_due:
            self.loop.call_later(watcher.INTERVAL, self._look)


class RequestWatcher(_Ending):
    """Notices that the client has left an http consumer that does not receive.

    ``receive`` is the server's, for the request that ``scope`` describes; the consumer gets
    :meth:`receive`. Where nobody waits there for ``INTERVAL``, events are taken in advance, up to
    ``MESSAGES`` or ``BYTES``. A consumer that asks for more after its request's body hears by
    itself that its client has left, and is not cancelled.
    """

    # Of the class, where each request need not set it.

    #: Whether there is nothing to :meth:`end`.
    idle = True
    #: Whether the response has started. Then a client that waits for leave to send its body gets
    #: none any more (RFC 9110 section 10.1.1).
    started = False
    _asked = _read = _stopped = False
    _waiting = 0
    _ahead: "asyncio.Task[Event] | None" = None
    _events: deque[Event] | None = None
    _size = 0

    def __init__(self, scope: Mapping[str, Any], receive: Receive, sweep: Sweep) -> None:
        self._scope = scope
        self._receive = receive
        self._sweep = sweep

    async def has_left(self) -> bool:
        """Whether the client has left, once nobody receives any more: the server is asked again."""
        try:
            await asyncio.wait_for(self._until_left(), SOON)
        except asyncio.TimeoutError:
            return False
        return True

    async def _until_left(self) -> None:
        while not self.left:
            self._note(await self._receive())
            # Middleware that has read the body may give it again and again, without a wait.
            await asyncio.sleep(0)

    def _note(self, event: Event) -> None:
        if event["type"] == "http.disconnect":
            self.left = True

    async def receive(self) -> Event:
        """The consumer's ``receive``; no event is lost or comes twice."""
        self._asked = True
        if self._read:
            self.stop()
        self._waiting += 1
        try:
            event = await self._next()
        finally:
            self._waiting -= 1
        self._note(event)
        if not event.get("more_body"):
            self._read = True
        return event

    async def _next(self) -> Event:
        while not self._events:
            ahead = self._ahead
            if self.left:
                return {"type": "http.disconnect"}
            if ahead is None:
                return await self._receive()
            if ahead.done():
                self._ahead = None
                # Raises what the server has raised.
                ahead.result()
            else:
                await asyncio.wait({ahead})
        event = self._events.popleft()
        self._size -= len(event.get("body", b""))
        return event

    def watch(self, task: "asyncio.Task[Any]") -> None:
        """Watch from now on, and cancel ``task``, the consumer's, when its client leaves."""
        self._task = task
        self._sweep.add(self)

    def put_out(self) -> None:
        """Cancel the consumer, and tell it that its client has left."""
        self.left = True
        self.stop()
        self.idle = False
        self._cancel()

    async def end(self) -> None:
        """Take no event any more, and have nobody cancelled: the consumer has ended."""
        self._cancel_no_more()
        if self._ahead is not None and not self._ahead.done():
            self._ahead.remove_done_callback(self._arrived)
            self._ahead.cancel()
            await stubborn.ended(self._ahead)

    def told(self, name: str, scope: Mapping[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self.stop()
        self.idle = False
        super().told(name, scope, loop)

    def stop(self) -> None:
        """Watch no longer: the response has ended, or the consumer listens by itself."""
        if not self._stopped:
            self._stopped = True
            self._sweep.watched.pop(self, None)

    def look(self) -> None:
        """Take events in advance, if nobody waits for them and they may be taken."""
        if self._waiting or self._ahead is not None or not self._may_look():
            return
        if self._events is None:
            self._events = deque()
        if len(self._events) < MESSAGES and self._size < BYTES:
            self.idle = False
            self._ahead = asyncio.ensure_future(_awaited(self._receive))
            self._ahead.add_done_callback(self._arrived)

    def _may_look(self) -> bool:
        return self._asked or self.started or not waits_for_leave(self._scope)

    def _arrived(self, ahead: asyncio.Task[Event]) -> None:
        if has_failed(ahead):
            return
        self._ahead = None
        event = ahead.result()
        if event["type"] == "http.disconnect":
            self.left = True
            if not self._stopped and not self._waiting:
                self._cancel()
            return
        # look() has made them.
        self._events.append(event)  # type: ignore[union-attr]
        self._size += len(event.get("body", b""))
        if not self._stopped:
            self.look()


async def _awaited(receive: Receive) -> Event:
    # Whatever it returns, a task is made of this.
    return await receive()
