"""``redis://``: the backend, which puts the parts together.

In threads, scripts run through ``blocking.py``. On an event loop they run through ``commands.py``,
and subscriptions live in a hub (``hub.py``). What connects the two worlds is here: an event loop
hears of what was published by threads and by other loops before it arrives.
"""

import asyncio
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError
from zope.interface import implementer

from pyramid_asgi_consumers.channels.events import RESERVED
from pyramid_asgi_consumers.channels.forks import PerProcess
from pyramid_asgi_consumers.channels.positions import make_id
from pyramid_asgi_consumers.channels.redis.answers import not_told
from pyramid_asgi_consumers.channels.redis.blocking import BlockingCommands
from pyramid_asgi_consumers.channels.redis.commands import Commands
from pyramid_asgi_consumers.channels.redis.connections import Connections, make_pool
from pyramid_asgi_consumers.channels.redis.entries import parse_beginning, parse_position
from pyramid_asgi_consumers.channels.redis.hub import Hub
from pyramid_asgi_consumers.channels.redis.keys import Keys
from pyramid_asgi_consumers.channels.redis.presence import members_of
from pyramid_asgi_consumers.channels.redis.readings import is_after
from pyramid_asgi_consumers.channels.redis.scripts import PRESENT, PUBLISH, READ, Script
from pyramid_asgi_consumers.channels.redis.urls import check_url
from pyramid_asgi_consumers.channels.subscriptions import Subscription
from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.interfaces import IChannelsBackend

# How many words of who is disconnected are kept at least: who was out of touch hears them then.
WORDS = 1000


@implementer(IChannelsBackend)
class RedisBackend:
    """The backend ``redis://``, also ``rediss://`` and ``unix://``: a URL as redis-py takes it.

    ``history`` is how many events of each channel are kept; ``timeout`` the seconds a publisher
    waits for Redis; ``expiry`` the seconds after which a channel that nobody publishes on is
    forgotten; ``prefix`` begins every key. Raises ValueError, or TypeError, for a bad URL.
    """

    def __init__(
        self,
        url: str,
        history: int = 0,
        timeout: float = 5.0,
        expiry: int = 86400,
        prefix: str = "asgi:",
    ) -> None:
        self.history = history
        self.timeout = timeout
        self.expiry = expiry
        check_url(url)
        self._url = url
        try:
            self.blocking = BlockingCommands(url, timeout, self._leave_server)
            pool = make_pool(url, timeout)
            # Only to check the URL: redis-py looks at some options when it makes a connection.
            pool.make_connection()
        except RedisError as error:
            raise ValueError(
                f"the Redis URL has an option that redis-py refuses: {error}"
            ) from error
        self.keys = Keys(prefix, int(pool.connection_kwargs.get("db") or 0))
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        # Of ``_loops`` and of ``feed.published``. What interrupts its owner may publish.
        self._lock = PerProcess(threading.RLock)

    def publish_many(self, messages: Iterable[tuple[str, bytes]]) -> list[str | ChannelsError]:
        messages = list(messages)
        return self.blocking.run(
            ((PUBLISH, self._publish_arguments(*message)) for message in messages),
            lambda number, reply: self._published(messages[number][0], reply),
        )

    async def publish(self, channel: str, payload: bytes) -> str:
        arguments = self._publish_arguments(channel, payload)
        return self._published(channel, await self._loop().commands.run(PUBLISH, *arguments))

    def _publish_arguments(self, channel: str, payload: bytes) -> tuple[Any, ...]:
        return (
            self.keys.stream(channel),
            self.keys.redis_channel(channel),
            payload,
            max(self.history, WORDS) if channel == RESERVED else self.history,
            self.expiry,
        )

    def _published(self, channel: str, reply: bytes) -> str:
        # The answer may be here before the event is: who subscribes in between must not get it.
        position = parse_position(reply)
        redis_channel = self.keys.redis_channel(channel)
        with self._lock():
            for loop in self._loops.values():
                feed = loop.hub.feeds.get(redis_channel) if loop.hub is not None else None
                if feed is not None and is_after(position, feed.published):
                    feed.published = position
        return make_id(position)

    def _leave_server(self) -> None:
        # In a thread. The connections of event loops may lead to the same server, too.
        with self._lock():
            for running, loop in self._loops.items():
                with suppress(RuntimeError):  # the event loop is closed
                    running.call_soon_threadsafe(loop.commands.elsewhere.set)

    async def attach(self, subscription: Subscription) -> None:
        loop = self._loop()
        if loop.hub is None:
            loop.hub = Hub(self.keys, loop.connections, loop.commands, self.timeout, self.expiry)
        await loop.hub.attach(subscription)

    async def detach(self, subscription: Subscription) -> None:
        loop = self._loops.get(asyncio.get_running_loop())
        if loop is None or loop.hub is None:
            return
        hub = loop.hub
        left = hub.detach(subscription)
        if not hub.feeds:
            loop.hub = None
            hub.task.cancel()
        try:
            if left:
                await asyncio.wait([command.future for command in left], timeout=self.timeout)
                for command in left:
                    loop.commands.give_up(command)
        finally:
            if not hub.feeds:
                await asyncio.wait([hub.task])

    def position_now(self, channel: str) -> str:
        return _position(channel, self._run_now(READ, self._newest(channel)))

    async def position(self, channel: str) -> str:
        return _position(channel, await self._run(READ, self._newest(channel)))

    def _newest(self, channel: str) -> tuple[Any, ...]:
        # No entry is read.
        return self.keys.stream(channel), "", 0, 0

    def present_now(self, channel: str) -> list[Any]:
        key = self.keys.members(channel)
        return _present(channel, key, self._run_now(PRESENT, (key,)))

    async def present(self, channel: str) -> list[Any]:
        key = self.keys.members(channel)
        return _present(channel, key, await self._run(PRESENT, (key,)))

    def _run_now(self, script: Script, arguments: tuple[Any, ...]) -> Any:
        (reply,) = self.blocking.run([(script, arguments)], lambda _, reply: reply)
        return reply

    async def _run(self, script: Script, arguments: tuple[Any, ...]) -> Any:
        try:
            return await self._loop().commands.run(script, *arguments)
        except ChannelsError as error:
            return error

    def _loop(self) -> "_Loop":
        running = asyncio.get_running_loop()
        with self._lock():
            found = self._loops.get(running)
            if found is None:
                for closed in [loop for loop in self._loops if loop.is_closed()]:
                    del self._loops[closed]
                found = self._loops[running] = _Loop(self._url, self.timeout)
        return found

    async def aclose(self) -> None:
        """Close the connections of the running event loop; the next use opens new ones.

        Its subscriptions end when what waits for them is taken; one that is being entered raises
        :class:`.ChannelsError`. Who was present there is forgotten as after a crash.
        """
        with self._lock():
            loop = self._loops.pop(asyncio.get_running_loop(), None)
        if loop is not None:
            if loop.hub is not None:
                loop.hub.close()
                await asyncio.wait([loop.hub.task])
            await loop.commands.aclose()
            await loop.connections.aclose()
        self.blocking.close_idle()


def _position(channel: str, reply: Any) -> str:
    if isinstance(reply, ChannelsError):
        raise not_told(f"Where {channel!r} stands", reply)
    _, newest, _, _, beginning = reply
    position = parse_position(newest) if newest else parse_beginning(beginning)
    assert position is not None  # Redis tells one of them
    return make_id(position)


def _present(channel: str, key: bytes, reply: Any) -> list[Any]:
    if isinstance(reply, ChannelsError):
        raise not_told(f"Who is present on {channel!r}", reply)
    return members_of(key, reply)


class _Loop:
    # What the backend has on one event loop: a hub while somebody subscribes.

    def __init__(self, url: str, timeout: float) -> None:
        self.connections = Connections(make_pool(url, timeout), timeout)
        self.commands = Commands(self.connections, timeout)
        self.hub: Hub | None = None
