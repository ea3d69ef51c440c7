"""Sends the body of a response that is an async iterable, from the event loop.

The worker thread that has made the response is free by then. :meth:`Streaming.send_to` is awaited
by the request's task, which listens to the client and to the server; the body is iterated over and
sent in a task of its own, which has the context variables of the response, and can be cancelled.
"""

import asyncio
import contextlib
import contextvars
import logging
import types
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

from pyramid_asgi_consumers import quirks, stubborn
from pyramid_asgi_consumers.async_bodies import AsyncBody, close
from pyramid_asgi_consumers.async_views import Receive
from pyramid_asgi_consumers.exceptions import ClientDisconnected, ServerStopping
from pyramid_asgi_consumers.raised import carried, contained, original
from pyramid_asgi_consumers.turns import TURN, Turns, until_left
from pyramid_asgi_consumers.wsgi.answer import Answer

log = logging.getLogger(__name__)

# For so many seconds a body without a Content-Length may go on when its server stops.
GRACE = 0.5

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Streaming:
    """Sends ``body``, which belongs to ``answer``, whose headers are final.

    ``context`` is that of the thread which has made it. ``stopping`` tells when the server stops;
    None where nothing does; ``scope`` is the request's.
    """

    #: Whether the headers are sent, or on their way.
    started = False
    #: What the body itself has raised.
    error: BaseException | None = None

    _has_left = False
    _is_cancelled = False
    _is_broken_off = False
    _is_stopping = False
    _timer: asyncio.TimerHandle | None = None
    _over: "asyncio.Future[None]"
    _task: "asyncio.Task[None]"

    def __init__(
        self,
        body: AsyncBody,
        answer: Answer,
        context: contextvars.Context,
        stopping: Any,
        scope: dict[str, Any],
    ) -> None:
        self._body = body
        self._answer = answer
        self._context = context
        self._stopping = stopping
        self._scope = scope
        self._loop = asyncio.get_running_loop()

    async def send_to(self, receive: Receive, send: Send, start: dict[str, Any]) -> None:
        """Send ``start`` with the first chunk, then all of the body.

        Returns when it was sent, or when the client has left, in the midst of it. Raises
        :class:`.ClientDisconnected` where the client left before, :class:`.ServerStopping` where
        the server stops, and what the body or ``send`` raises.
        """
        loop = self._loop
        over = self._over = loop.create_future()
        sending = contained(self._send_chunks(send, start, contextvars.copy_context()))
        # A copy: the thread may be inside it.
        task = self._task = self._context.copy().run(loop.create_task, sending)
        task.add_done_callback(self._set_over)
        listener = loop.create_task(self._listen(receive))
        ends = None if self._stopping is None else self._stopping.of(loop)
        if ends is not None:
            ends.add(self._stop)
        try:
            await over
        except asyncio.CancelledError:
            self._is_cancelled = True
            # It is enough to be cancelled once.
            with contextlib.suppress(asyncio.CancelledError):
                await stubborn.end({task}, quirks.patience())
            if task.done():
                self._log_unheard(self._outcome())
            raise
        finally:
            if ends is not None:
                ends.discard(self._stop)
            if self._timer is not None:
                self._timer.cancel()
            listener.cancel()
            await stubborn.ended(listener)
        await self._finish(send, start)

    async def _finish(self, send: Send, start: dict[str, Any]) -> None:
        error = None
        if self._task.done():
            error = self._outcome()
        else:
            stubborn.leave_alone({self._task}, stubborn.PATIENCE)
        if self._has_left or self._is_broken_off:
            self._log_unheard(error)
            if self._is_broken_off:
                raise ServerStopping("The response had no end yet when the server stopped")
            if not self.started:
                raise ClientDisconnected("The client left before its response began")
            return
        if error is not None:
            raise error
        if not self.started:
            self.started = True
            await send(start)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _outcome(self) -> BaseException | None:
        """What the task has raised, but for its being cancelled from here."""
        if self._task.cancelled():
            if self._is_cancelled:
                return None
            # It has cancelled itself. On Python 3.10 one that just raises this looks so, too.
            self.error = carried(asyncio.CancelledError())
            return self.error
        error = self._task.exception()
        if self.error is not None and error is not None and original(error) is self.error:
            self.error = error
        return error

    def _log_unheard(self, error: BaseException | None) -> None:
        # What send raises says that the client has left.
        if error is not None and error is self.error:
            self._context.copy().run(
                log.error, "A response that nobody waits for any more failed", exc_info=error
            )

    # In the task of the body.

    async def _send_chunks(
        self, send: Send, start: dict[str, Any], context: contextvars.Context
    ) -> None:
        answer, source, convert = self._answer, self._body.source, self._body.convert
        run = context.run
        turns, due = Turns(), 0.0
        chunks: Any = None
        try:
            while True:
                try:
                    if chunks is None:
                        chunks = aiter(source)
                    chunk = await chunks.__anext__()
                    if convert is not None:
                        chunk = convert(chunk)
                except StopAsyncIteration:
                    break
                except BaseException as error:
                    self.error = error
                    raise
                sent = answer.measured(answer.checked(chunk))
                if self._is_cancelled:
                    return
                if sent:
                    if not self.started:
                        self.started = True
                        if (begun := run(_begin, send, start)) is not None:
                            await _go_on(run, *begun)
                    message = {"type": "http.response.body", "body": sent, "more_body": True}
                    if (begun := run(_begin, send, message)) is not None:
                        await _go_on(run, *begun)
                if len(sent) < len(chunk):
                    return
                if (now := monotonic()) >= due:
                    due = now + TURN
                    if turns.missed(now):
                        await asyncio.sleep(0)
            answer.end(None)
        finally:
            try:
                await close(source, chunks)
            except BaseException as error:
                self.error = error
                raise

    # On the event loop.

    def _set_over(self, task: object = None) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def _listen(self, receive: Receive) -> None:
        await until_left(receive)
        self._has_left = True
        self._cancel()

    def _stop(self) -> None:
        self._is_stopping = True
        if self._has_left:
            self._cancel()
        elif self._answer.length is None:
            self._timer = self._loop.call_later(GRACE, self._break_off)
            self._stopping.of(self._loop).break_off(self._scope)

    def _break_off(self) -> None:
        self._is_broken_off = not self._task.done()
        self._cancel()

    def _cancel(self) -> None:
        # Who is cancelled a second time would not tidy up.
        if not self._is_cancelled:
            self._is_cancelled = True
            self._task.cancel()
        if self._is_stopping:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(stubborn.PATIENCE, self._set_over)


# To send is to call this in the context of the server, which may start tasks there; and to await
# _go_on() where that has not been all. Most often it has.


def _begin(send: Send, message: dict[str, Any]) -> tuple[Any, Any] | None:
    """Begin to send ``message``; return the steps that are left, and what the first waits for."""
    steps: Any = send(message).__await__()
    try:
        return steps, next(steps)
    except StopIteration:
        return None


@types.coroutine
def _go_on(run: Callable[..., Any], steps: Any, awaited: Any) -> Any:
    try:
        while True:
            try:
                yield awaited
            except BaseException as error:
                if not hasattr(steps, "throw"):
                    raise
                awaited = run(steps.throw, error)
            else:
                awaited = run(next, steps)
    except StopIteration:
        pass
