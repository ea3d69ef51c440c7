"""The body of a response as an async iterable, and how a thread iterates over that.

Under ASGI it is sent from the event loop, which ``wsgi.streaming`` does. Whoever else wants a body
(a tween that reads it, WSGI middleware, a WSGI server) finds an ordinary iterable here.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from pyramid_asgi_consumers import stubborn
from pyramid_asgi_consumers.async_views import OwnLoop, run_on_loop
from pyramid_asgi_consumers.raised import contained, outcome, unwrapped
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

# What stands for the end of the chunks.
_END = object()


def is_async(body: Any) -> bool:
    """Whether ``body`` can be iterated over by ``async for`` alone."""
    return hasattr(body, "__aiter__") and not hasattr(body, "__iter__")


async def close(source: Any, chunks: Any = None) -> None:
    """Close ``source``, an async iterable, and ``chunks``, its iterator, as far as they can be."""
    try:
        if chunks is not None and chunks is not source and hasattr(chunks, "aclose"):
            await chunks.aclose()
    finally:
        if hasattr(source, "aclose"):
            await source.aclose()


class AsyncBody:
    """``source``, an async iterable of chunks, as an iterable that blocks, for WSGI.

    ``loop_arguments`` are those of :func:`.run_on_loop`, None where no server's loop is there:
    then the iteration has a loop of its own. ``convert`` is called with each chunk, and returns
    what is sent.

    A thread iterates over it and calls :meth:`close`; on an event loop that is ``async for`` and
    :meth:`aclose`.
    """

    # The iteration of a thread.
    _iteration: "_Iteration | None" = None

    def __init__(
        self,
        source: AsyncIterable[Any],
        loop_arguments: tuple[Any, ...] | None = None,
        convert: Callable[[Any], Any] | None = None,
    ) -> None:
        self.source = source
        self.loop_arguments = loop_arguments
        self.convert = convert

    # In a thread.

    def __iter__(self) -> Iterator[Any]:
        """Its chunks. Raises RuntimeError on the thread of an event loop that runs."""
        iteration = self._iteration = _Iteration(self)
        try:
            while (chunk := iteration.next()) is not _END:
                yield chunk
        finally:
            iteration.leave()

    def close(self) -> None:
        """Close it, wherever the iteration is; a second time does nothing.

        Raises RuntimeError on the thread of an event loop that runs.
        """
        if self._iteration is None:
            self._iteration = _Iteration(self)
        self._iteration.close()

    # On an event loop.

    async def __aiter__(self) -> AsyncIterator[Any]:
        chunks = aiter(self.source)
        try:
            async for chunk in chunks:
                yield chunk if self.convert is None else self.convert(chunk)
        finally:
            await close(self.source, chunks)

    async def aclose(self) -> None:
        """Close it, wherever the iteration is."""
        await close(self.source)


class _Iteration:
    """How a thread iterates over ``body``: in one task of one event loop, from the first chunk on.

    The task goes on only while the thread waits for a chunk, as an ordinary iterable does.
    """

    def __init__(self, body: AsyncBody) -> None:
        self._body = body
        self._check_thread()
        self._own = OwnLoop() if body.loop_arguments is None else None
        self._is_closed = False
        # What follows is the event loop's.
        self._task: asyncio.Task[Any] | None = None
        # What the thread waits for.
        self._chunk: asyncio.Future[Any]
        # What the task waits for: whether the thread wants another.
        self._wanted: asyncio.Future[bool] | None = None

    # In the thread.

    def next(self) -> Any:
        """The next chunk, ``_END`` after the last; raises what the body does."""
        self._check_thread()
        return self._run(self._step())

    def close(self) -> None:
        """Close the body, and raise what that raises."""
        if self._is_closed:
            return
        self._check_thread()
        self._is_closed = True
        try:
            self._run(self._end(), may_leave=False)
        finally:
            if self._own is not None:
                self._own.close()

    def leave(self) -> None:
        """Close the body where the iteration was left, which may be on any thread.

        An iterator that was dropped half way ends where the last reference to it, or the garbage
        collector, does: on an event loop, too, which would wait for itself.
        """
        if self._is_closed or asyncio._get_running_loop() is None:
            self.close()
        else:
            threading.Thread(target=self._close_elsewhere, daemon=True).start()

    def _close_elsewhere(self) -> None:
        try:
            self.close()
        except Exception:
            log.exception("Failed to close a body that was left: %s", Shown(self._body.source))

    def _check_thread(self) -> None:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                f"{self._body.source!r} is iterated over, or closed, on the thread of a running"
                " event loop, which cannot wait for it: use async for, and await aclose(), there"
            )

    def _run(self, coroutine: Coroutine[Any, Any, Any], may_leave: bool = True) -> Any:
        if self._own is not None:
            return unwrapped(self._own.run, coroutine)
        # There are some, where there is no loop of its own.
        loop, receive, awaited = self._body.loop_arguments  # type: ignore[misc]
        return run_on_loop(coroutine, loop, receive if may_leave else None, awaited)

    # On the event loop.

    async def _step(self) -> Any:
        loop = asyncio.get_running_loop()
        chunk = self._chunk = loop.create_future()
        task = self._task
        if task is None:
            task = self._task = loop.create_task(contained(self._iterate()))
            task.add_done_callback(self._set_ended)
            if self._body.loop_arguments is not None:
                # What the thread does not come back for ends with the server.
                awaited = self._body.loop_arguments[2]
                awaited.add(task)
                task.add_done_callback(awaited.discard)
        else:
            # It has given a chunk.
            self._wanted.set_result(True)  # type: ignore[union-attr]
        try:
            await asyncio.wait({chunk})
        except asyncio.CancelledError:
            # The client has left, or the server stops.
            await stubborn.end({task}, stubborn.PATIENCE)
            raise
        if chunk.result() is _END:
            await outcome(task)
        return chunk.result()

    def _set_ended(self, task: object) -> None:
        if not self._chunk.done():
            self._chunk.set_result(_END)

    async def _iterate(self) -> None:
        chunks: Any = aiter(self._body)
        try:
            async for chunk in chunks:
                wanted = self._wanted = asyncio.get_running_loop().create_future()
                self._chunk.set_result(chunk)
                if not await wanted:
                    return
        finally:
            await chunks.aclose()

    async def _end(self) -> None:
        task = self._task
        if task is None:
            return await self._body.aclose()
        if task.done() or self._wanted is None or self._wanted.done():
            # One that goes on was cancelled, and left alone.
            return
        self._wanted.set_result(False)
        await asyncio.wait({task}, timeout=stubborn.PATIENCE)
        if not task.done():
            return stubborn.leave_alone({task}, stubborn.PATIENCE)
        await outcome(task)
