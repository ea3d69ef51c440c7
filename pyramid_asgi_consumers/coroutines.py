"""Awaits what an async view returned, for the worker thread that called the view."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pyramid.threadlocal import manager as threadlocals

from pyramid_asgi_consumers.exceptions import ClientDisconnected

#: Where a request's environ has the :class:`LoopRunner` of the server that made it.
RUNNER = "pyramid_asgi_consumers.runner"


class LoopRunner:
    """Runs the awaitables of one request on ``loop``, the server's.

    ``receive`` is the request's own, to notice that the client leaves; None where somebody else
    reads it.
    """

    __slots__ = ("loop", "receive")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        receive: Callable[[], Awaitable[dict[str, Any]]] | None = None,
    ) -> None:
        self.loop = loop
        self.receive = receive

    def __call__(self, awaitable: Awaitable[Any]) -> Any:
        """Wait in this thread, which is not the loop's; return the result or raise what it raises.

        The awaitable has this thread's contextvars. Where the client leaves it is cancelled, and
        :class:`.ClientDisconnected` raised: an ``Exception``, on which transactions abort.
        """
        coroutine = self._until_left(awaitable)
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()
            raise
        return future.result()

    async def _until_left(self, awaitable: Awaitable[Any]) -> Any:
        if self.receive is None:
            return await awaitable
        task = asyncio.ensure_future(awaitable)
        watcher = asyncio.ensure_future(self._left())
        try:
            await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            watcher.cancel()
            await asyncio.wait((task, watcher))
        if not task.cancelled():
            return task.result()
        raise ClientDisconnected("The client left while its view was awaited")

    async def _left(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


def run_on_own_loop(awaitable: Awaitable[Any]) -> Any:
    """Run ``awaitable`` on an event loop made for it, in this thread; return its result.

    Pyramid's thread-locals are hidden from it, as they are on a server's loop.
    """
    loop = asyncio.new_event_loop()
    threadlocals.push(threadlocals.default())
    try:
        return loop.run_until_complete(_alone(awaitable))
    finally:
        threadlocals.pop()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _alone(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    finally:
        # Nobody will run what it has started and not awaited.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
