"""``redis://``: the backend, which puts the parts together."""

import asyncio
import logging
import os
import queue
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from redis import ConnectionPool
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import parse_url as parse_async_url
from redis.backoff import NoBackoff
from redis.connection import Connection, parse_url
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError
from redis.retry import Retry
from zope.interface import implementer

from pyramid_asgi_consumers.channels.base import Subscription, decode, make_id
from pyramid_asgi_consumers.channels.redis.answers import (
    as_channels_error,
    is_elsewhere,
    unknown,
    unreachable,
)
from pyramid_asgi_consumers.channels.redis.blocking import Shared
from pyramid_asgi_consumers.channels.redis.commands import Commands
from pyramid_asgi_consumers.channels.redis.connections import MOST_CONNECTIONS, Connections
from pyramid_asgi_consumers.channels.redis.deadlines import TIMED_CONNECTIONS, this_thread
from pyramid_asgi_consumers.channels.redis.feeds import is_after
from pyramid_asgi_consumers.channels.redis.hub import Hub
from pyramid_asgi_consumers.channels.redis.pages import parse_position
from pyramid_asgi_consumers.channels.redis.scripts import PRESENT, PUBLISH, evaluations
from pyramid_asgi_consumers.channels.redis.urls import OVERRIDDEN, check_url
from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.interfaces import IChannelsBackend
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)


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
        # What threads share, of each process: a fork begins with its own.
        self._shared: dict[int, Shared] = {}
        try:
            self._share()
            self._subscribers = self._make_async_pool()
            self.make_subscriber()
        except RedisError as error:
            raise ValueError(
                f"the Redis URL has an option that redis-py refuses: {error}"
            ) from error
        # Redis numbers its databases, but not its channels.
        self._database = int(self._pool.connection_kwargs.get("db") or 0)
        self._prefix = prefix
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}

    def _options(self, parsed: Any) -> dict[str, Any]:
        # What is set here wins over the URL. Not one retry: a publish that was sent may have been
        # carried out. RESP 2 because Redis's answers are read here.
        return {
            **{name: value for name, value in parsed.items() if name not in OVERRIDDEN},
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
            "protocol": 2,
        }

    def _share(self) -> "Shared":
        pid = os.getpid()
        shared = self._shared.get(pid)
        if shared is None:
            shared = self._shared.setdefault(pid, self._make_shared())
            self._shared = {pid: shared}
        return shared

    def _make_shared(self) -> "Shared":
        # redis-py refuses the next thread at once, and allows 100 if the URL does not say.
        options = self._options(parse_url(self._url))
        most = options.pop("max_connections", None)
        if most is not None and most < 1:
            raise ValueError(f"the option max_connections is at least 1, not {most}")
        kind = TIMED_CONNECTIONS[options.pop("connection_class", Connection)]
        pool = ConnectionPool(kind, most or MOST_CONNECTIONS, **options)
        return Shared(pool, most)

    @property
    def _pool(self) -> ConnectionPool:
        return self._share().pool

    @property
    def _lock(self) -> Any:
        return self._share().lock

    def _make_async_pool(self) -> AsyncConnectionPool:
        # Subscribers read without a timeout, and of commands whole batches are timed.
        options = self._options(parse_async_url(self._url))
        return AsyncConnectionPool(
            **{**options, "socket_timeout": None, "max_connections": MOST_CONNECTIONS}
        )

    def make_subscriber(self) -> AsyncConnection:
        """Return a connection of its own, not yet connected."""
        return self._subscribers.make_connection()

    def redis_channel(self, channel: str) -> bytes:
        return f"{self._prefix}{self._database}:{channel}".encode()

    def stream(self, channel: str) -> bytes:
        return f"{self._prefix}stream:{channel}".encode()

    def members(self, channel: str) -> bytes:
        return f"{self._prefix}present:{channel}".encode()

    def _publish_arguments(self, channel: str, payload: bytes) -> tuple[Any, ...]:
        return (
            self.stream(channel),
            self.redis_channel(channel),
            payload,
            self.history,
            self.expiry,
        )

    def publish_many(self, messages: Iterable[tuple[str, bytes]]) -> list[str | ChannelsError]:
        messages = list(messages)
        turns = self._share().turns
        # A finalizer, or the handler of a signal, may publish in the midst of this.
        before = this_thread.deadline
        this_thread.deadline = time.monotonic() + self.timeout
        try:
            if turns is None:
                return self._publish_many(messages)
            try:
                turn = turns.get(timeout=self.timeout)
            except queue.Empty:
                return [unreachable("max_connections are busy") for _ in messages]
            try:
                return self._publish_many(messages)
            finally:
                turns.put(turn)
        finally:
            this_thread.deadline = before

    def _publish_many(self, messages: list[tuple[str, bytes]]) -> list[str | ChannelsError]:
        pool = self._pool
        try:
            connection = pool.get_connection()
        except (RedisError, OSError) as error:
            return [unreachable(error) for _ in messages]
        results: list[str | ChannelsError] = []
        elsewhere = False
        try:
            calls = [(PUBLISH, self._publish_arguments(*message)) for message in messages]
            connection.send_packed_command(
                connection.pack_commands(evaluations(calls)), check_health=False
            )
            while len(results) < len(messages):
                try:
                    reply = connection.read_response()
                    results.append(self._published(messages[len(results)][0], reply))
                except ResponseError as error:
                    results.append(as_channels_error(error))
                    elsewhere = elsewhere or is_elsewhere(error)
        except AuthenticationError as error:
            # Whoever is not let in once is not let in with what comes behind.
            elsewhere = True
            results += [as_channels_error(error) for _ in messages[len(results) :]]
        except BusyLoadingError as error:
            # redis-py reads no further. What comes behind may have been in time.
            elsewhere = True
            results.append(as_channels_error(error))
            results += [unknown(error) for _ in messages[len(results) :]]
        except (RedisError, OSError) as error:
            connection.disconnect()
            results += [unknown(error) for _ in messages[len(results) :]]
        finally:
            if elsewhere:
                connection.disconnect()
            pool.release(connection)
        if elsewhere:
            self._leave_server()
        return results

    def _leave_server(self) -> None:
        # Other threads' connections lead to the same server, and perhaps those of event loops.
        self._pool.disconnect(inuse_connections=False)
        with self._lock:
            for running, loop in self._loops.items():
                with suppress(RuntimeError):  # the event loop is closed
                    running.call_soon_threadsafe(loop.commands.elsewhere.set)

    async def publish(self, channel: str, payload: bytes) -> str:
        arguments = self._publish_arguments(channel, payload)
        return self._published(channel, await self._loop().commands.run(PUBLISH, *arguments))

    def _published(self, channel: str, reply: bytes) -> str:
        # The answer may be here before the event is: who subscribes in between must not get it.
        position = parse_position(reply)
        redis_channel = self.redis_channel(channel)
        with self._lock:
            for loop in self._loops.values():
                feed = loop.hub.feeds.get(redis_channel) if loop.hub is not None else None
                if feed is not None and is_after(position, feed.published):
                    feed.published = position
        return make_id(position)

    async def attach(self, subscription: Subscription) -> None:
        loop = self._loop()
        if loop.hub is None:
            loop.hub = Hub(self, loop.connections, loop.commands)
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

    async def present(self, channel: str) -> list[Any]:
        try:
            entries = await self._loop().commands.run(PRESENT, self.members(channel))
        except ChannelsError as error:
            raise ChannelsError(f"Who is present on {channel!r} is unknown: {error}") from error
        members = []
        for payload in sorted({entry.partition(b":")[2] for entry in entries}):
            try:
                members.append(decode(payload))
            except ValueError as error:
                log.warning(
                    "Skipped foreign bytes in %s: %s", Shown(self.members(channel)), Shown(error)
                )
        return members

    def _loop(self) -> "_Loop":
        running = asyncio.get_running_loop()
        with self._lock:
            found = self._loops.get(running)
            if found is None:
                for closed in [loop for loop in self._loops if loop.is_closed()]:
                    del self._loops[closed]
                found = self._loops[running] = _Loop(self, self._make_async_pool())
        return found

    async def aclose(self) -> None:
        """Close the connections of the running event loop; the next use opens new ones.

        Its subscriptions end when what waits for them is taken; one that is being entered raises
        :class:`.ChannelsError`. Who was present there is forgotten as after a crash.
        """
        with self._lock:
            loop = self._loops.pop(asyncio.get_running_loop(), None)
        if loop is not None:
            if loop.hub is not None:
                loop.hub.close()
                await asyncio.wait([loop.hub.task])
            await loop.commands.aclose()
            await loop.connections.aclose()
        self._pool.disconnect(inuse_connections=False)


class _Loop:
    # What the backend has on one event loop.

    def __init__(self, backend: RedisBackend, pool: AsyncConnectionPool) -> None:
        self.connections = Connections(pool, backend.timeout)
        self.commands = Commands(self.connections, backend.timeout)
        self.hub: Hub | None = None
