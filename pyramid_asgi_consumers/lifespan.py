"""Startup and shutdown: the contexts that an application is served within."""

import asyncio
import contextvars
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from pyramid_asgi_consumers import quirks, stubborn
from pyramid_asgi_consumers.exceptions import LifespanError
from pyramid_asgi_consumers.raised import StandIn, caught, contained, original
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

#: ``factory(registry)`` returns an async context manager.
Factory = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]

#: Where the scope of a connection says that it enters no contexts.
ENTERS_NONE = "pyramid_asgi_consumers.enters_none"

# The contexts that are being entered, for what they do themselves.
_entering: contextvars.ContextVar["Run | None"] = contextvars.ContextVar("entering", default=None)


def starts_nothing(factory: Factory) -> Factory:
    """Mark a ``factory`` whose contexts do something when they are left, and only then."""
    marked: Any = factory
    marked.starts_nothing = True
    return factory


class Run:
    """The contexts of one event loop, from the first one's start to the last one's end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, is_own: bool = False) -> None:
        self.loop = loop
        #: Whether a connection has asked for it, and not a server.
        self.is_own = is_own
        #: What the contexts have yielded, merged.
        self.state: dict[str, Any] = {}
        #: Whether all contexts have been entered.
        self.entered = False
        #: What kept them from being entered, or from being left.
        self.error: Exception | None = None
        #: How many lifespan scopes it serves.
        self.users = 0
        #: Set when they have been entered, or cannot be.
        self.settled = asyncio.Event()
        self.stopping = asyncio.Event()
        #: Set when nothing that runs uses them any more.
        self.drained = asyncio.Event()
        #: The task that enters and leaves them; None where there is nothing to start.
        self.task: Any = None

    async def end(self) -> None:
        """Have the contexts left; return when they have been. It does not raise."""
        self.stopping.set()
        if not self.entered:
            self.task.cancel()
        await asyncio.wait((self.task,))

    async def end_within(self, seconds: float) -> None:
        """The same for a server that waits without a bound: they have ``seconds``, then are left.

        What has been waited for till then, and is cancelled, has a few more.
        """
        self.stopping.set()
        if not self.entered:
            self.task.cancel()
        else:
            drained = asyncio.ensure_future(self.drained.wait())
            await asyncio.wait((self.task, drained), return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        await asyncio.wait((self.task,), timeout=seconds)
        if not self.task.done():
            log.warning(
                "The contexts are not left after %.3g s, but wait: %s",
                seconds,
                stubborn.place(self.task),
            )
            await stubborn.end((self.task,), min(seconds, stubborn.PATIENCE))


class Lifespan:
    """Enters an application's contexts when it starts and leaves them when it stops.

    That is once for each event loop that lives: with the server's lifespan scope, or else with the
    first connection. ``factories`` make the contexts of ``registry``, entered in this order and
    left in reverse. ``drain`` is awaited at the end, before any is left: what still runs may use
    them. They are left within ``timeout`` seconds where the server waits without a bound.
    """

    def __init__(
        self,
        registry: Any,
        factories: Sequence[Factory],
        drain: Callable[[], Awaitable[None]],
        timeout: float = 10.0,
    ) -> None:
        self.registry = registry
        self.factories = factories
        self.drain = drain
        self.timeout = timeout
        #: By event loop.
        self.runs: dict[asyncio.AbstractEventLoop, Run] = {}
        self._has_warned = False
        # By event loop: whether its server never sends a lifespan.
        self._watched: Any = weakref.WeakKeyDictionary()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve a ``scope`` of the type ``lifespan`` (ASGI Lifespan Protocol).

        Where a context fails, those already entered are left and the server gets
        ``lifespan.startup.failed`` (or ``lifespan.shutdown.failed``) with the reason.

        Where a connection, or another such scope, has entered the contexts already, this scope uses
        the same ones; the last such scope leaves them.
        """
        await receive()
        loop = asyncio.get_running_loop()
        run = self.runs.get(loop)
        if run is None or run.task is None:
            run = self._new_run(loop)
            run.task = loop.create_task(self._live(run))
        run.users += 1
        phase = "startup"
        try:
            await run.settled.wait()
            if run.error is None:
                if "state" in scope:
                    scope["state"].update(run.state)
                phase = "shutdown"
                await send({"type": "lifespan.startup.complete"})
                await receive()
        finally:
            run.users -= 1
            if not run.users:
                await run.end()
                stubborn.outlive(loop)
        if run.error is None or run.users:
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": f"lifespan.{phase}.failed", "message": str(run.error)})

    async def start(self, scope: Mapping[str, Any]) -> Run:
        """Return this event loop's contexts, on behalf of a connection whose ``scope`` is given.

        They are entered where no server has said so. All that come meanwhile wait for one start,
        and one that is cancelled leaves it be. Raises :class:`LifespanError` where a context fails;
        the next call tries again.
        """
        loop = asyncio.get_running_loop()
        run = self.runs.get(loop)
        if run is None:
            if ENTERS_NONE in scope:
                return Run(loop)
            run = self._new_run(loop, is_own=True)
            if all(getattr(factory, "starts_nothing", False) for factory in self.factories):
                run.entered = True
                run.settled.set()
                last = Run(loop)
                last.stopping.set()

                async def leave(seconds: float | None) -> None:
                    last.task = loop.create_task(self._live(last))
                    last.entered = True
                    await last.end_within(self.timeout if seconds is None else seconds)

                quirks.before_shutdown(leave)
                return run
            # It has nothing to do with what this connection's context says.
            run.task = contextvars.Context().run(loop.create_task, self._live(run))
        # A context that asks the application while it is entered does not wait for itself.
        if _entering.get() is not run:
            await run.settled.wait()
            if run.error is not None:
                raise run.error
        return run

    def _new_run(self, loop: asyncio.AbstractEventLoop, is_own: bool = False) -> Run:
        forget_closed(self.runs)
        run = self.runs[loop] = Run(loop, is_own)
        return run

    async def _live(self, run: Run) -> None:
        # Contexts are entered and left in one task.
        run.task = asyncio.current_task()
        # Who closes a loop in which tasks wait is not told so for this one.
        run.task._log_destroy_pending = False
        phase = "startup"
        run.error = LifespanError("the startup was cancelled")
        _entering.set(run)
        if run.is_own and run.loop not in self._watched:
            self._watch(run.loop)
        try:
            async with AsyncExitStack() as stack:
                try:
                    for factory in self.factories:
                        context = factory(self.registry)
                        _merge(run.state, factory, await stack.enter_async_context(context))
                    stack.push_async_callback(self._drain, run)
                    if run.is_own and not self._has_warned and not self._watched[run.loop]:
                        self._warn()
                    phase = "shutdown"
                    run.error = None
                    run.entered = True
                    run.settled.set()
                    await run.stopping.wait()
                except asyncio.CancelledError:
                    # An event loop that ends cancels its tasks: do not finish a start then.
                    if not run.entered:
                        raise
                    # Contexts may look at it; Python 3.10 has none.
                    getattr(run.task, "uncancel", int)()
                except GeneratorExit:
                    # The loop was closed: nothing can be awaited any more.
                    stack.pop_all()
                    raise
        except BaseException as raised:
            error = original(caught(raised, run.task))
            log.error("The application's %s failed", phase, exc_info=error)
            run.error = LifespanError(f"{type(error).__name__}: {error}")
        finally:
            if self.runs.get(run.loop) is run:
                del self.runs[run.loop]
            run.settled.set()

    async def _drain(self, run: Run) -> None:
        try:
            await self.drain()
        finally:
            run.drained.set()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        async def leave(seconds: float | None) -> None:
            run = self.runs.get(loop)
            if run is not None:
                await run.end_within(self.timeout if seconds is None else seconds)

        self._watched[loop] = quirks.before_shutdown(leave)

    def _warn(self) -> None:
        self._has_warned = True
        log.warning(
            "No lifespan came before the first connection, which has entered the contexts of"
            " add_asgi_lifespan and add_asgi_app; they are left when the server or its event"
            " loop ends, if it says so. Have the server's lifespan on, and handed on to this"
            " application by the one around it"
        )


def forget_closed(by_loop: dict[asyncio.AbstractEventLoop, Any]) -> None:
    """Forget what belongs to event loops that were closed without a word."""
    for loop in list(by_loop):
        if loop.is_closed():
            by_loop.pop(loop, None)


def _merge(merged: dict[str, Any], factory: Factory, state: Mapping[str, Any] | None) -> None:
    if state is None:
        return
    if not isinstance(state, Mapping):
        raise TypeError(f"{factory!r} must yield a mapping or None, not {state!r}")
    merged.update(state)


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
    task = asyncio.ensure_future(contained(app(scope, to_app.get, from_app.put)))
    try:
        answer = await _answer(task, to_app, from_app, "startup")
        if answer is None:
            error = task.exception()
            if isinstance(error, StandIn):
                raise LifespanError(str(error)) from original(error)
            log.debug("%s knows no lifespan: %s", Shown(app), Shown(error))
        yield state
        if answer is not None and await _answer(task, to_app, from_app, "shutdown") is None:
            # An event loop that ends has cancelled it, too.
            if not task.cancelled():
                task.result()
    finally:
        await stubborn.end({task}, stubborn.PATIENCE)
        if task.done():
            await asyncio.gather(task, return_exceptions=True)


async def _answer(
    task: "asyncio.Task[Any]",
    to_app: "asyncio.Queue[dict[str, Any]]",
    from_app: "asyncio.Queue[dict[str, Any]]",
    phase: str,
) -> dict[str, Any] | None:
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
