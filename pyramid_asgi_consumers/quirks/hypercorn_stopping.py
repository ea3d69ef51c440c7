"""What Hypercorn 0.18 needs to stop in good order, where this package starts it.

Left alone, it breaks websockets off, waits without a bound for a client that does not read, and
with the event loop of Python 3.12 and later for all connections, before it ends the lifespan.
:func:`serve_until_told` is for ``pserve`` (``servers/``); ``testing/live_servers.py`` uses
:func:`cancel_others`. What Hypercorn does to a connection, whoever has started it, is in
``hypercorn.py``. The proofs are in ``tests/servers/test_pserve.py``.
"""

import asyncio
import logging
import signal
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from pyramid_asgi_consumers import stubborn
from pyramid_asgi_consumers.quirks.told import TOLD, Told

log = logging.getLogger(__name__)


async def serve_until_told(
    app: Any, context: AbstractAsyncContextManager[Mapping[str, Any]], config: Any, serve: Any
) -> None:
    """Serve ``app`` by Hypercorn's ``serve`` until a signal says to stop.

    ``context`` is the lifespan of ``app``, and gives its state. It is entered here, and not by
    Hypercorn, so that it is left whatever becomes of the connections.
    """
    loop = asyncio.get_running_loop()
    stopping, overdue = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))
    state = await asyncio.wait_for(context.__aenter__(), config.startup_timeout)
    served = ClosingWebsockets(app, state)
    # It is kept here, in Hypercorn's place.
    bound, config.graceful_timeout = config.graceful_timeout, None

    async def stop() -> None:
        try:
            await stopping.wait()
        finally:
            # Hypercorn cancels this where it ends by itself, after max_requests.
            loop.call_later(bound, overdue.set)
            await served.close()

    before = asyncio.all_tasks()
    server = asyncio.create_task(serve(served, config, shutdown_trigger=stop, mode="asgi"))
    watch = asyncio.create_task(overdue.wait())
    try:
        await asyncio.wait([server, watch], return_when=asyncio.FIRST_COMPLETED)
        if server.done():
            watch.cancel()
            server.result()
        else:
            log.warning("Connections are still open after %g s", bound)
            await cancel_others(before)
    finally:
        await asyncio.wait_for(context.__aexit__(None, None, None), config.shutdown_timeout)


async def cancel_others(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel all tasks of the running loop but ``tasks``, until they end.

    Nobody waits for those that go on.
    """
    # A connection of Hypercorn's that is cancelled closes, for which it waits until it is
    # cancelled again; so does what it still sends.
    for _ in range(3):
        others = asyncio.all_tasks() - tasks
        if others:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=0.5)
    stubborn.leave_alone(asyncio.all_tasks() - tasks, 1.5)


class ClosingWebsockets:
    """``app``, of which :meth:`close` closes the websockets. ``state`` is that of its lifespan."""

    def __init__(self, app: Any, state: Mapping[str, Any]) -> None:
        self.app = app
        self.state = state
        #: The ``send`` of each websocket that was accepted and is not closed.
        self.open: set[Any] = set()
        #: Set for good by :meth:`close`. From then on no websocket is accepted.
        self.is_closing = False
        self._told = Told()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        TOLD.set(self._told)
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _lifespan(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["state"].update(self.state)
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    async def _websocket(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        def tracked(message: dict[str, Any]) -> Any:
            if message["type"] == "websocket.accept" and not self.is_closing:
                self.open.add(send)
            elif self.is_closing and send not in self.open:
                raise OSError("The server stops")
            elif message["type"] == "websocket.close":
                self.open.discard(send)
            return send(message)

        try:
            await self.app(scope, receive, tracked)
        finally:
            self.open.discard(send)

    async def close(self) -> None:
        """Close all websockets with 1012, "service restart" (RFC 6455 section 7.4)."""
        self.is_closing = True
        self._told.begin()
        if self.open:
            # A client that reads nothing does not hold the others up.
            await asyncio.wait(
                [asyncio.ensure_future(self._close(s)) for s in self.open], timeout=1
            )

    async def _close(self, send: Any) -> None:
        # Its consumer may end before this runs.
        if send in self.open:
            self.open.discard(send)
            await send({"type": "websocket.close", "code": 1012, "reason": ""})
