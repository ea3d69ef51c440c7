"""Forwards what is published on channels to a websocket, beside what else its function does."""

import asyncio
from typing import Any

from pyramid_asgi_consumers.channels.events import Event
from pyramid_asgi_consumers.channels.subscriptions import Subscription
from pyramid_asgi_consumers.exceptions import ChannelsError


class Relay:
    """An asynchronous context manager: ``async with websocket.relay("news"):``.

    While its body runs, events of ``subscription`` are sent to ``websocket``: bytes as binary
    messages, all other data as its JSON in text messages, just as it came. Where they cannot be,
    since the client has left, the subscription has overflowed or the channels were closed, the body
    is cancelled and that error raised.
    """

    def __init__(self, websocket: Any, subscription: Subscription) -> None:
        self._websocket = websocket
        self._subscription = subscription
        self._interrupted = False

    async def __aenter__(self) -> None:
        await self._subscription.__aenter__()
        # A task; what it can do depends on the version of Python.
        self._body: Any = asyncio.current_task()
        self._task = asyncio.create_task(self._forward())
        self._task.add_done_callback(self._interrupt)

    async def __aexit__(self, exc_type: Any, exc: Any, traceback: Any) -> None:
        self._task.remove_done_callback(self._interrupt)
        self._task.cancel()
        cancelled = exc if isinstance(exc, asyncio.CancelledError) else None
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError as error:
            # The interruption may reach the body only here.
            cancelled = error
        finally:
            await self._subscription.__aexit__()
        if not self._interrupted:
            if cancelled is not None and cancelled is not exc:
                raise cancelled
            return
        # Python 3.11 counts: somebody else may have cancelled the body, too.
        if hasattr(self._body, "uncancel") and self._body.uncancel() and cancelled is not None:
            raise cancelled
        if exc is None or exc is cancelled:
            # What has ended without an error was closed, as a backend is when its server stops.
            failure = self._task.exception() or ChannelsError("The channels were closed")
            raise failure from None

    async def _forward(self) -> None:
        async for item in self._subscription:
            # Where a gap is, only the subscriber knows what to do: see channels.subscribe().
            if isinstance(item, Event):
                await self._websocket.send(item.data if item.json is None else item.json)

    def _interrupt(self, task: asyncio.Task[None]) -> None:
        self._interrupted = True
        self._body.cancel()
