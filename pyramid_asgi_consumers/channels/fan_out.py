"""Divides what goes to many subscribers into slices, between which the event loop turns.

Else whatever else it serves, such as pages, would wait until the last of them has been sent to.
"""

import asyncio
import contextvars
from collections import deque
from time import monotonic
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from pyramid_asgi_consumers.turns import threads_work

#: So many subscribers are served in one turn of the loop, and for so many seconds at most, which is
#: looked after each few of them.
SLICE = 200
SECONDS = 0.0015
FEW = 8

#: So many turns are between two slices: a page takes some. Where threads are at work, which need
#: the interpreter lock, the loop waits instead, for so many seconds or what more timers take.
TURNS = 3
PAUSE = 0.0005


class Served(Protocol):
    """A subscriber for whom something waits."""

    def serve(self) -> object:
        """Give it to the subscriber."""


class FanOut:
    """The slices of one event loop, on which it is used."""

    def __init__(self) -> None:
        # How many more may be served in this turn, and until when.
        self._left = SLICE
        self._end = 0.0
        self._waiting: deque[Served] = deque()
        # How many of those that waited have been served.
        self._served = 0
        # Set after the next slice; who waits for that makes it. It knows the loop, which is to be
        # forgotten.
        self._next: asyncio.Event | None = None
        # The next slice has nothing to do with who publishes in this one.
        self._context = contextvars.Context()

    def has_room(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether one more may be served in this turn of ``loop``, who is to be served then."""
        left = self._left
        if left % FEW == 0 and not self._goes_on(left, loop):
            return False
        self._left = left - 1
        return True

    def _goes_on(self, left: int, loop: asyncio.AbstractEventLoop) -> bool:
        if left == SLICE:
            loop.call_soon(self._turn, loop, context=self._context)
            self._end = monotonic() + SECONDS
        elif left and monotonic() > self._end:
            left = self._left = 0
        return left > 0

    def serve_later(self, subscriber: Served) -> None:
        """Have :meth:`Served.serve` called in a later turn, since this one has no room."""
        self._waiting.append(subscriber)

    def _turn(self, loop: asyncio.AbstractEventLoop, left: int = TURNS) -> None:
        waiting = self._waiting
        if waiting and left:
            self._left = 0
            if threads_work():
                loop.call_later(PAUSE, self._turn, loop, 0, context=self._context)
            else:
                loop.call_soon(self._turn, loop, left - 1, context=self._context)
            return
        self._left = SLICE
        while waiting and self.has_room(loop):
            self._served += 1
            waiting.popleft().serve()
        if self._next is not None:
            self._next.set()
            self._next = None

    async def turn(self) -> None:
        """Let the loop turn until all are served who wait now, be there none.

        Who brings more and more waits here, so that no queue grows but a slow subscriber's.
        """
        until = self._served + len(self._waiting)
        await asyncio.sleep(0)
        while self._served < until:
            if self._next is None:
                self._next = asyncio.Event()
            await self._next.wait()


_fan_outs: WeakKeyDictionary[asyncio.AbstractEventLoop, FanOut] = WeakKeyDictionary()


def fan_out_of(loop: asyncio.AbstractEventLoop) -> FanOut:
    """That of ``loop``; who asks first makes it."""
    fan_out: Any = _fan_outs.get(loop)
    if fan_out is None:
        fan_out = _fan_outs[loop] = FanOut()
    return fan_out
