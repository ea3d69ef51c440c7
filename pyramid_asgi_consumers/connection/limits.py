"""How much one client may send on a websocket, and how many connections one user may have open."""

import asyncio
import logging
import math
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any, NamedTuple

from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.shown import LOG_INTERVAL, Shown

log = logging.getLogger(__name__)

TOO_LONG = 1009
TOO_MANY = 1008

#: So many lines about clients that pass a consumer's limits are warnings, in LOG_INTERVAL.
MOST_WARNINGS = 10

MOST_MESSAGES = 10**9
MOST_PERIOD = 10**6

EXPECTED_RATE = (
    '"MESSAGES/TIME", as "100/10s": a number of messages, and of seconds (s), minutes (m) or'
    " hours (h)"
)

_RATE = re.compile(r"([0-9]{1,10})/([0-9]{0,7})([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]


class Rate(NamedTuple):
    """So many ``messages`` may come in so many ``seconds``."""

    messages: int
    seconds: int


def read_rate(text: Any) -> Rate:
    """The :class:`Rate` that ``text`` states: ``"100/10s"``, ``"5/s"``, ``"1000/2h"``.

    Raises ValueError for anything else.
    """
    found = _RATE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise ValueError(text)
    rate = Rate(int(found[1]), int(found[2] or 1) * _SECONDS[found[3]])
    if not (1 <= rate.messages <= MOST_MESSAGES and 1 <= rate.seconds <= MOST_PERIOD):
        raise ValueError(text)
    return rate


class Limits(NamedTuple):
    """What one client or user may do; None is no limit.

    ``max_message`` are the bytes of a websocket's message; ``max_rate`` are its messages;
    ``max_connections_per_user`` are the connections of one user to a guarded consumer, in one
    process.
    """

    max_message: int | None = None
    max_rate: Rate | None = None
    max_connections_per_user: int | None = None

    def of(self, consumer: Consumer) -> "Limits":
        """Those of ``consumer``: its own where it states one, else these."""
        own: list[Any] = [getattr(consumer, name) for name in self._fields]
        return Limits._make(theirs or each for theirs, each in zip(own, self, strict=True))


class Warned:
    """Warns of the clients that pass the limits of ``consumer``.

    After ``MOST_WARNINGS`` in ``LOG_INTERVAL`` they are debug ones: many clients make no storm.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._since = -math.inf
        self._count = 0

    def warn(self, scope: Mapping[str, Any], words: str, *values: object) -> None:
        """Log ``words``, which name the consumer first and the client of ``scope`` last."""
        now = monotonic()
        if now - self._since >= LOG_INTERVAL:
            self._since, self._count = now, 0
        self._count += 1
        line = words % (self._consumer, *values, _client(scope))
        if self._count <= MOST_WARNINGS:
            log.warning("%s", line)
        else:
            log.debug("%s", line)
        if self._count == MOST_WARNINGS:
            log.warning(
                "%s: more lines like the last are debug ones, for %d s",
                self._consumer,
                LOG_INTERVAL,
            )


def _client(scope: Mapping[str, Any]) -> str:
    address = (scope.get("client") or (None,))[0]
    shown = "a client" if address is None else f"{Shown(str(address), quoted=False)}"
    user = scope.get("pyramid.userid")
    return shown if user is None else f"{shown}, user {Shown(user)}"


class MessageLimits:
    """What one message, and all of them, of each client of a consumer may be.

    ``warned`` is the consumer's.
    """

    def __init__(self, limits: Limits, warned: Warned) -> None:
        self.max_message = math.inf if limits.max_message is None else limits.max_message
        self.max_rate = limits.max_rate or Rate(sys.maxsize, 0)
        self.warned = warned

    def receive(
        self, scope: Mapping[str, Any], receive: Receive, close: Callable[[int], object]
    ) -> Receive:
        """``receive`` until a message passes the limits.

        Then ``close`` is called with the close code, and the websocket is told to be closed.
        """
        max_message = self.max_message
        most, seconds = self.max_rate
        # Messages are counted off, and only who has used them up needs the clock.
        left, since = 0, -math.inf
        end: Event | None = None

        async def limited_receive() -> Event:
            nonlocal left, since, end
            if end is not None:
                # Servers go on with what the client has sent, or wait. Nothing else comes here.
                await asyncio.get_running_loop().create_future()
            event = await receive()
            if event["type"] != "websocket.receive":
                return event
            if end is None:
                left -= 1
                if left < 0:
                    now = monotonic()
                    if now - since < seconds:
                        end = self._passed(scope, close, TOO_MANY)
                    left, since = most - 1, now
                # Either of text and bytes may be absent or None (ASGI, Receive).
                text = event.get("text")
                length = len(event["bytes"] if text is None else text)
                # Characters have up to four bytes in UTF-8.
                if length * 4 > max_message and end is None:
                    if text is not None and length <= max_message and not text.isascii():
                        length = len(text.encode("utf-8", "surrogatepass"))
                    if length > max_message:
                        end = self._passed(scope, close, TOO_LONG)
            return event if end is None else end

        return limited_receive

    def _passed(self, scope: Mapping[str, Any], close: Callable[[int], object], code: int) -> Event:
        if code == TOO_LONG:
            words = "a message of more than %s bytes (max_message) came from %s"
            values: tuple[object, ...] = (self.max_message,)
        else:
            words = "more than %d messages in %d s (max_rate) came from %s"
            values = self.max_rate
        self.warned.warn(scope, f"%s closes with {code}: {words}", *values)
        close(code)
        return {"type": "websocket.disconnect", "code": code, "reason": ""}


class UserPlaces:
    """The connections that each user has open, ``most`` at once; None for any number.

    None, who is nobody, has any number: all who have not logged in would share its places.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        #: How many each has open.
        self.open: dict[object, int] = {}

    @contextmanager
    def taken(self, userid: object) -> Iterator[bool]:
        """Take one for ``userid`` for the time of the block; yields False where none is free."""
        if self._most is None or userid is None:
            yield True
            return
        key = _key(userid)
        count = self.open.get(key, 0)
        if count >= self._most:
            yield False
            return
        self.open[key] = count + 1
        try:
            yield True
        finally:
            rest = self.open[key] - 1
            if rest:
                self.open[key] = rest
            else:
                # Who was here once takes no memory.
                del self.open[key]


def _key(userid: object) -> object:
    try:
        hash(userid)
    except TypeError:
        # A list, say, as JSON makes of a tuple.
        return type(userid), repr(userid)
    return userid
