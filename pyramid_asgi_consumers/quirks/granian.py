"""What is done differently for Granian 2.8."""

import asyncio
import re
import signal
import sys
import threading
from typing import Any

from pyramid_asgi_consumers.quirks.specification import Headers, Leave, Server, Stop


class Granian(Server):
    """Granian, on a websocket."""

    # 2.8.9 does not, and what waits there then never ends.
    tells_who_left_early = False

    minds_who_left = False

    # 2.8.9 leaves its client waiting.
    breaks_denials_off = False

    def websocket(self, receive: Any, send: Any) -> tuple[Any, Any]:
        """No close after a disconnect, and no message lost by a ``receive`` that is cancelled.

        Granian 2.8.7's worker may die of such a close while it stops, and then leaves no lifespan
        context. Its future (2.8.9) loses the message that it is being given as it is cancelled:
        it is kept for the next ``receive``.
        """
        left = False
        kept: Any = None
        waiting: list[asyncio.Future[None]] = []

        def arrived(_: Any) -> None:
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
            waiting.clear()

        async def noting_receive() -> dict[str, Any]:
            nonlocal left, kept
            while True:
                if kept is None:
                    asked = receive()
                    if not asyncio.isfuture(asked):
                        # What it has at once is no future.
                        message = await asked
                        break
                    kept = asked
                    # It calls one callback, the last.
                    asked.add_done_callback(arrived)
                asked = kept
                if not asked.done():
                    waiter = asyncio.get_running_loop().create_future()
                    waiting.append(waiter)
                    await waiter
                # Another task may have been faster, or this be the call for the message before.
                if kept is asked and asked.done():
                    kept = None
                    message = asked.result()
                    break
            left = message["type"] == "websocket.disconnect"
            return message

        async def unless_left_send(message: dict[str, Any]) -> None:
            if not (left and message["type"] == "websocket.close"):
                await send(message)

        return noting_receive, unless_left_send

    def denial_headers(self, headers: Headers) -> Headers:
        """Headers of which no name comes twice.

        Up to 2.8.7 Granian's worker dies on one that does: repeats are merged with a comma, and of
        cookies, which cannot be merged, the first is kept. 2.8.9 sends them all.
        """
        version = getattr(sys.modules.get("granian"), "__version__", "0")
        if tuple(int(number) for number in re.findall("[0-9]+", version)[:3]) >= (2, 8, 9):
            return headers
        merged: dict[bytes, bytes] = {}
        for name, value in headers:
            name = name.lower()
            if name not in merged:
                merged[name] = value
            elif name != b"set-cookie":
                merged[name] += b", " + value
        return list(merged.items())


#: What serves its websockets.
SERVER = Granian()


def before_shutdown(leave: Leave) -> None:
    """Have ``leave`` run when the process of Granian 2.8.9's worker ends.

    It leaves its event loop as it stands, neither running nor closed.
    """
    loop = asyncio.get_running_loop()
    if not any(_is_of_worker(task.get_coro()) for task in asyncio.all_tasks()):
        return

    # It costs 2 ms and half a MiB, and Granian has imported it.
    import multiprocessing.util

    def run() -> None:
        loop.run_until_complete(leave(None))

    multiprocessing.util.Finalize(None, run, exitpriority=0)


def _is_of_worker(coroutine: Any) -> bool:
    name = getattr(coroutine, "__qualname__", "")
    return re.match(r"M[PT]Server\._spawn_asgi_", name) is not None


def stop_of(coroutine: Any) -> Stop | None:
    """What tells of the stop of Granian 2.8.9's worker, if ``coroutine`` is its.

    The worker is told by SIGTERM or SIGINT. It waits for its connections before it tells anybody,
    and with uvloop nobody can ask for the handlers that there are: so they are called from one that
    is put before them.
    """
    if threading.current_thread() is not threading.main_thread() or not _is_of_worker(coroutine):
        return None

    def has_begun() -> bool:
        # Anybody may have set another handler since.
        return any([_Noting.before(number) for number in (signal.SIGINT, signal.SIGTERM)])

    has_begun()
    return Stop(coroutine, has_begun)


class _Noting:
    """The handler of a signal that notes that it came, and calls the ``handler`` before it.

    An event loop hears of a signal through a file descriptor, whatever the handler is.
    """

    has_come = False

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __call__(self, number: int, frame: Any) -> None:
        self.has_come = True
        self._handler(number, frame)

    @classmethod
    def before(cls, number: int) -> bool:
        """Whether the signal has come since one was put there; put one there."""
        handler = signal.getsignal(number)
        if isinstance(handler, cls):
            return handler.has_come
        if callable(handler):
            signal.signal(number, cls(handler))
            # As event loops have it; the call before has undone it.
            signal.siginterrupt(number, False)
        return False
