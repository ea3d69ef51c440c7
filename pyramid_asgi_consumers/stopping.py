"""Tells what would go on for ever that its server stops: streams, and responses without an end.

Nobody else does. Servers wait for the responses under way before they shut the lifespan down, some
of them for ever, and a few of their workers see no signal. So what a server is like that stops is
looked for some times a second, as long as anything is to be told. ``quirks`` knows what to look
for.

    ends = stopping.of(asyncio.get_running_loop())
    ends.add(end)
    try:
        ...
    finally:
        ends.discard(end)
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Mapping
from typing import Any

from zope.interface import implementer

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.interfaces import IStopping
from pyramid_asgi_consumers.lifespan import forget_closed
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

#: So often a server is looked at, and a server that is not known is looked for, in seconds.
LOOK = 0.1
SEARCH = 1.0

#: So many seconds a client has at most to take the end of its response, where the server itself
#: would wait without a bound.
TAKE = 0.5

#: Ends what goes on. It does not block.
End = Callable[[], object]


@implementer(IStopping)
class Stopping:
    """One application's ends, on all event loops that serve it."""

    def __init__(self) -> None:
        self._by_loop: dict[asyncio.AbstractEventLoop, Ends] = {}

    def of(self, loop: asyncio.AbstractEventLoop) -> "Ends":
        """What is to end when the server stops that runs on ``loop``."""
        ends = self._by_loop.get(loop)
        if ends is None:
            forget_closed(self._by_loop)
            # Another thread has another loop.
            ends = self._by_loop[loop] = Ends(loop)
        return ends


class Ends:
    """What is to end when the server stops that runs on ``loop``.

    The methods are called on that loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ends: dict[End, quirks.Told | None] = {}
        # Those that were called, until they are discarded.
        self._called: set[End] = set()
        self._is_looking = False
        self._stops: list[quirks.Stop] = []
        self._searched = -SEARCH
        self._ending: list[Mapping[str, Any]] = []

    def add(self, end: End) -> None:
        """Have ``end()`` called, once, as soon as the server begins to stop.

        That is on the event loop, soon after this call where it is stopping already. What ``end``
        raises is logged.
        """
        self._find()
        told = quirks.TOLD.get()
        self._ends[end] = told
        if self._has_begun() or (told is not None and told.has_begun):
            self._loop.call_soon(self._look, context=contextvars.Context())
        if not self._is_looking:
            self._is_looking = True
            self._look_later()

    def discard(self, end: End) -> None:
        """Do not call ``end``, if that has not been done yet; else, say that it has ended."""
        self._ends.pop(end, None)
        self._called.discard(end)

    def break_off(self, scope: Mapping[str, Any]) -> None:
        """Break the connection of ``scope`` off soon, if its client has not taken all by then.

        Servers that wait without a bound for such a client would be held up.
        """
        if not self._ending:
            # All at once, since each is looked for among all connections.
            self._loop.call_later(TAKE, self._break_off, context=contextvars.Context())
        self._ending.append(scope)

    def _break_off(self) -> None:
        scopes, self._ending = self._ending, []
        for stop in self._stops:
            stop.break_off(scopes)

    def _look_later(self) -> None:
        # What ends has nothing to do with the connection that came first.
        self._loop.call_later(LOOK, self._look_again, context=contextvars.Context())

    def _look_again(self) -> None:
        # It goes on once in vain: what comes and goes costs nothing then.
        self._is_looking = bool(self._ends)
        if self._is_looking:
            self._look_later()
            self._look()

    def _look(self) -> None:
        self._find()
        has_begun = self._has_begun()
        for end, told in list(self._ends.items()):
            if has_begun or (told is not None and told.has_begun):
                self._end(end)

    def _end(self, end: End) -> None:
        # What was ended before may have discarded it.
        if end not in self._ends:
            return
        del self._ends[end]
        self._called.add(end)
        try:
            end()
        except Exception:
            log.exception("Failed to end with the server: %s", Shown(end))

    def _find(self) -> None:
        """Find the servers, where none is known or one is over."""
        if any(stop.is_over() for stop in self._stops):
            # Another one may follow on the same event loop.
            self._stops = []
            self._searched = -SEARCH
            for end in list(self._ends):
                self._end(end)
        now = self._loop.time()
        if not self._stops and now - self._searched >= SEARCH:
            self._searched = now
            self._stops = quirks.stops_of(self._loop)
            for stop in self._stops:
                stop.hold_up(self._have_ended)

    def _has_begun(self) -> bool:
        return quirks.is_stopping(self._loop) or any(stop.has_begun() for stop in self._stops)

    def _have_ended(self) -> bool:
        return not self._ends and not self._called
