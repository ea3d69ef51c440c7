"""Gives others their turn where one task sends and sends, and the server never makes it wait.

A server's ``send`` need not suspend: it does not where the client reads fast, nor, on Hypercorn
0.18, Granian 2.8.9 and Uvicorn 0.54 (http), where the client has left.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

# Seconds from one look to the next: about as long as Python lets a thread run.
TURN = 0.005


class Turns:
    """Tells whether the event loop turns while one connection sends.

    Who sends asks ``monotonic() >= turns.due and turns.missed()``: until then that is all it costs.
    """

    def __init__(self) -> None:
        #: When to look next.
        self.due = 0.0
        self._marked = False

    def missed(self) -> bool:
        """Whether the loop has not turned since the look before, so that it is time to give way."""
        self.due = monotonic() + TURN
        if self._marked:
            return True
        self._marked = True
        asyncio.get_running_loop().call_soon(self._turned)
        return False

    def _turned(self) -> None:
        self._marked = False


async def give_way(send: Callable[[Any], Awaitable[None]], message: dict[str, Any]) -> None:
    """Let the loop turn, and then ``send(message)``."""
    await asyncio.sleep(0)
    await send(message)
