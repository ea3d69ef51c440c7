"""Keeps what a client sends while its handshake waits for a thread; notices when it leaves."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pyramid_asgi_consumers import stubborn

# What is taken of an http request's body in advance, at most: so many messages and bytes.
MOST_EVENTS = 16
MOST_BYTES = 64 * 1024

Event = dict[str, Any]


def waits_for_leave(scope: Mapping[str, Any]) -> bool:
    """Whether the client sends its body when it is told to (RFC 9110 section 10.1.1).

    Servers tell it so when ``receive`` is called.
    """
    return any(name == b"expect" for name, _ in scope["headers"])


class EarlyEvents:
    """Takes a connection's events before its consumer asks for them, and keeps them for it.

    ``receive`` is the server's. The consumer gets :attr:`receive`, which is the same where nothing
    was taken. Entered for as long as the connection lasts: a wait for an event ends with that, and
    not before, since the event might be lost.
    """

    def __init__(self, receive: Callable[[], Awaitable[Event]]) -> None:
        self._receive = receive
        #: Events that were taken, and last the wait for one, in their order.
        #: They are few, and an empty deque has room for 64.
        self._kept: list[asyncio.Task[Event]] = []

    async def __aenter__(self) -> "EarlyEvents":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._kept:
            self._kept[-1].cancel()
            await stubborn.ended(self._kept[-1])
            await asyncio.gather(*self._kept, return_exceptions=True)

    async def left(self) -> bool:
        """Take events until the client leaves; return whether it has.

        False where more came than is kept, or the server tells no more just now. A websocket's
        client can do nothing but leave.
        """
        size = 0
        while len(self._kept) < MOST_EVENTS and size <= MOST_BYTES:
            taken = asyncio.create_task(self._take())
            self._kept.append(taken)
            await asyncio.wait((taken,))
            if taken.exception() is not None:
                self._kept.pop()
                return False
            event = taken.result()
            if event["type"].endswith(".disconnect"):
                return True
            size += len(event.get("body") or b"")
        return False

    async def _take(self) -> Event:
        return await self._receive()

    @property
    def receive(self) -> Callable[[], Awaitable[Event]]:
        """The consumer's ``receive``."""
        return self._next if self._kept else self._receive

    def _next(self) -> Awaitable[Event]:
        # No coroutine around the server's: that would show for each message.
        return self._kept_next() if self._kept else self._receive()

    async def _kept_next(self) -> Event:
        if not self._kept:
            # Another task was faster.
            return await self._receive()
        first = self._kept.pop(0)
        try:
            await asyncio.wait((first,))
        except asyncio.CancelledError:
            self._kept.insert(0, first)
            raise
        return first.result()
