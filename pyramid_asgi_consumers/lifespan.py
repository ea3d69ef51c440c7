"""Startup and shutdown: the contexts that an application is served within."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.exceptions import LifespanError

log = logging.getLogger(__name__)

#: ``factory(registry)`` returns an async context manager.
Factory = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class Lifespan:
    """Enters an application's contexts when it starts and leaves them when it stops.

    ``factories`` make the contexts of ``registry``, entered in this order and left in reverse.
    ``drain`` is awaited at the end, before any is left: what still runs may use them.
    """

    def __init__(
        self, registry: Any, factories: Sequence[Factory], drain: Callable[[], Awaitable[None]]
    ) -> None:
        self.registry = registry
        self.factories = factories
        self.drain = drain
        #: What the contexts have yielded, merged.
        self.state: dict[str, Any] = {}
        #: Whether all contexts have been entered.
        self.started = False
        self._own_start: asyncio.Task[Any] | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve a ``scope`` of the type ``lifespan`` (ASGI Lifespan Protocol).

        Where a context fails, those already entered are left and the server gets
        ``lifespan.startup.failed`` (or ``lifespan.shutdown.failed``) with the reason.
        """
        self.state = {}
        phase = "startup"
        await receive()
        try:
            async with AsyncExitStack() as stack:
                for factory in self.factories:
                    self._merge(factory, await stack.enter_async_context(factory(self.registry)))
                if "state" in scope:
                    scope["state"].update(self.state)
                stack.push_async_callback(self.drain)
                phase = "shutdown"
                self.started = True
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as error:
            log.exception("The application's %s failed", phase)
            reason = f"{type(error).__name__}: {error}"
            await send({"type": f"lifespan.{phase}.failed", "message": reason})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    def _merge(self, factory: Factory, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        if not isinstance(state, Mapping):
            raise TypeError(f"{factory!r} must yield a mapping or None, not {state!r}")
        self.state.update(state)

    async def start_without_server(self) -> None:
        """Start once, on behalf of a server that does not; return when that is done.

        Raises :class:`LifespanError` where a context fails; the next call tries again. The
        contexts are left when the server stops.
        """
        if self._own_start is None:
            self._own_start = asyncio.create_task(self._start())
        # It belongs to all connections that wait for it: one that is cancelled leaves it be.
        await asyncio.shield(self._own_start)

    async def _start(self) -> None:
        context = running(self)
        try:
            await context.__aenter__()
        except BaseException:
            self._own_start = None
            raise
        quirks.before_shutdown(lambda: context.__aexit__(None, None, None))
        self._own_start = None


@asynccontextmanager
async def running(app: Callable[..., Awaitable[None]]) -> AsyncIterator[dict[str, Any]]:
    """Run the lifespan of the ASGI application ``app`` around the body; yield its state.

    An application that knows no lifespan, as it shows by raising or returning, is left without.
    Raises :class:`LifespanError` where it fails to start, or at the end to stop.
    """
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    task = asyncio.ensure_future(app(scope, to_app.get, from_app.put))
    try:
        answer = await _answer(task, to_app, from_app, "startup")
        if answer is None:
            log.debug("%r knows no lifespan: %r", app, task.exception())
        yield state
        if answer is not None and await _answer(task, to_app, from_app, "shutdown") is None:
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _answer(task, to_app, from_app, phase):
    # None where the application ends without an answer.
    to_app.put_nowait({"type": f"lifespan.{phase}"})
    answer = asyncio.ensure_future(from_app.get())
    try:
        await asyncio.wait((task, answer), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            return None
        message = answer.result()
    finally:
        answer.cancel()
    if message["type"] == f"lifespan.{phase}.failed":
        raise LifespanError(message.get("message") or f"the {phase} failed")
    return message
