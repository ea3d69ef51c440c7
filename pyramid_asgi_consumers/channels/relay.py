"""Hands on what arrives on channels, beside the function that asked for it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pyramid_asgi_consumers.channels.events import Item
from pyramid_asgi_consumers.channels.subscriptions import Subscription
from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.raised import caught


class Relay:
    """An asynchronous context manager: ``async with websocket.relay("news"):``.

    When it is entered, ``begin(subscription)`` is awaited, which may say where the channels stand.
    While its body runs, ``forward(item)`` is awaited with each event and gap of ``subscription``.
    Where that raises, as when the client has left, or the subscription has overflowed or its
    channels were closed, the body is cancelled and that error raised. ``end()`` is called when it
    is left. ``at_once(item)``, if there is one, may take an item before that, without waiting, and
    returns whether it has.
    """

    def __init__(
        self,
        subscription: Subscription,
        begin: Callable[[Subscription], Awaitable[None]],
        forward: Callable[[Item], Awaitable[None]],
        end: Callable[[], object] = bool,
        at_once: Callable[[Item], bool] | None = None,
    ) -> None:
        self._subscription = subscription
        self._begin = begin
        self._forward = forward
        self._end = end
        self._at_once = at_once
        self._interrupted = False

    async def __aenter__(self) -> None:
        await self._subscription.__aenter__()
        try:
            await self._begin(self._subscription)
        except BaseException:
            await self._leave()
            raise
        self._subscription.hand_on(self._at_once)
        # A task; what it can do depends on the version of Python.
        self._body: Any = asyncio.current_task()
        self._task = asyncio.create_task(self._forward_all())
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
            await self._leave()
        failure = None
        if self._task.done() and not self._task.cancelled():
            # Asked for, it is not logged as one that nobody heard.
            failure = self._task.exception()
        if not self._interrupted:
            if cancelled is not None and cancelled is not exc:
                raise cancelled
            return
        # Python 3.11 counts: somebody else may have cancelled the body, too.
        if hasattr(self._body, "uncancel") and self._body.uncancel() and cancelled is not None:
            raise cancelled
        if exc is None or exc is cancelled:
            # What has ended without an error was closed, as a backend is when its server stops.
            raise (failure or ChannelsError("The channels were closed")) from None

    async def _leave(self) -> None:
        self._subscription.hand_on(None)
        self._end()
        await self._subscription.__aexit__()

    async def _forward_all(self) -> None:
        forward = self._forward
        try:
            async for item in self._subscription:
                await forward(item)
        except BaseException as error:
            # What a user's function raises, be it SystemExit, is not for the event loop.
            raise caught(error, asyncio.current_task())  # noqa: B904

    def _interrupt(self, task: asyncio.Task[None]) -> None:
        self._interrupted = True
        self._body.cancel()
