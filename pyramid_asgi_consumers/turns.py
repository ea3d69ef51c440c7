"""Lets other tasks run while one connection sends and sends, and its server never makes it wait.

A server's ``send`` need not suspend: it does not where the client reads fast, nor, on Hypercorn
0.18, Granian 2.8.9 and Uvicorn 0.54 (http), where the client has left.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from weakref import ref

# Seconds from one look to the next: about as long as Python lets a thread run.
TURN = 0.005

# Seconds until a ``receive`` is asked again that has told nothing new.
AGAIN = 0.5


class Crew(Protocol):
    """Threads that do jobs: how many there are, and those that have none."""

    threads: int
    idle: list[Any]


_crews: "set[ref[Crew]]" = set()


def note(crew: Crew) -> None:
    """Have :func:`threads_work` ask ``crew``, which has just been made, as long as it is there."""
    _crews.add(ref(crew, _crews.discard))


def threads_work() -> bool:
    """Whether a thread of this process has a job.

    An event loop that goes on and on has the interpreter lock for milliseconds at a time.
    """
    # Other threads may note theirs meanwhile.
    crews = [each() for each in list(_crews)]
    return any(crew.threads > len(crew.idle) for crew in crews if crew is not None)


class Turns:
    """Tells whether the running event loop turns; for any number of connections.

    Each asks once in ``TURN`` at most.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._due = 0.0
        self._marked = False
        self._number = 0
        self._is_counted = False

    def missed(self, now: float) -> bool:
        """Whether the loop has not turned for about ``TURN``: then it is time to give way."""
        if now < self._due:
            return False
        self._due = now + TURN
        if self._marked:
            return True
        self._marked = True
        self.loop.call_soon(self._turned)
        return False

    def number(self) -> int:
        """That of the turn which the loop is in; only whether it is another one is to be asked."""
        if not self._is_counted:
            self._is_counted = True
            self.loop.call_soon(self._count)
        return self._number

    def _count(self) -> None:
        self._number += 1
        self._is_counted = False

    def _turned(self) -> None:
        self._marked = False


async def until_left(receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Wait until the client of an http request has left; ``receive`` is the server's."""
    is_read = False
    while (event := await receive())["type"] != "http.disconnect":
        # Middleware that has read the body may give it again and again, and never wait.
        await asyncio.sleep(AGAIN if is_read else 0)
        is_read = not event.get("more_body")


async def give_way(send: Callable[[Any], Awaitable[None]], message: dict[str, Any]) -> None:
    """Let the loop turn, and then ``send(message)``."""
    await asyncio.sleep(0)
    await send(message)
