"""Connections of one event loop, and how long they are waited for.

``within`` gives up after the timeout. With a connection, the time starts again whenever a byte has
moved on it: what is long may take long over a slow network.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, SupportsIndex, cast

from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio.connection import Connection as AsyncConnection
from redis.exceptions import RedisError

from pyramid_asgi_consumers.channels.redis.urls import async_options

# More than any process has; redis-py wants a number.
MOST_CONNECTIONS = 2**31
# In how many steps a timeout passes; what moves meanwhile is seen at each.
STEPS = 5


def make_pool(url: str, timeout: float) -> AsyncConnectionPool:
    """Return redis-py's pool of connections of an event loop; raise for a URL it does not take."""
    options = async_options(url, timeout)
    return AsyncConnectionPool(**{**options, "max_connections": MOST_CONNECTIONS})


class Connections:
    """The connections of one event loop: each is taken for some exchanges, and kept in between.

    They are closed when the loop shuts down.
    """

    def __init__(self, pool: AsyncConnectionPool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._shutdown: AsyncGenerator[None, None] | None = None

    def make(self) -> AsyncConnection:
        """Return a connection that is not yet connected, and not kept: a subscriber's."""
        return self._pool.make_connection()

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[AsyncConnection, None]:
        """Lend a connection, which is closed where the block raises."""
        if self._shutdown is None:
            self._shutdown = self._until_shutdown()
            await self._shutdown.__anext__()
        getting = asyncio.ensure_future(self._pool.get_connection())
        try:
            connection = await within(self._timeout, getting)
        except BaseException:
            # A cancellation may have come with the connection.
            if not getting.cancelled() and getting.exception() is None:
                await self._pool.release(getting.result())
            raise
        try:
            yield connection
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await self._pool.release(connection)

    async def leave_server(self) -> None:
        """Close those that are kept: new ones may lead to another server."""
        # What cannot be closed in time is dropped all the same.
        with suppress(RedisError):
            await self._pool.disconnect(inuse_connections=False)

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        # An event loop that shuts down finishes its asynchronous generators: nobody else would
        # tell, where no lifespan is run.
        try:
            yield
        finally:
            await self._pool.disconnect()

    async def aclose(self) -> None:
        """Close all."""
        if self._shutdown is not None:
            await self._shutdown.aclose()


class _Reader(asyncio.StreamReader):
    # Counts what arrives, of which redis-py tells only when a reply is complete.
    arrived = 0

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        self.arrived += 1
        super().feed_data(data)


def traffic_of(connection: AsyncConnection) -> tuple[int, int]:
    """Return how much has arrived and how much waits to go: it changes whenever something moves."""
    reader, writer = connection._reader, connection._writer
    if reader is None or writer is None:
        return 0, 0
    # It was made by asyncio, which offers no other way to watch it.
    reader.__class__ = _Reader
    return cast(_Reader, reader).arrived, writer.transport.get_write_buffer_size()


async def within(
    seconds: float, awaited: Awaitable[Any], connection: AsyncConnection | None = None
) -> Any:
    """Return what ``awaited`` returns; raise TimeoutError after ``seconds``.

    With a ``connection``, only time counts in which nothing moves on it. What was awaited is done,
    or cancelled and done, when this returns.
    """
    # asyncio.wait_for of Python 3.11 and before loses a cancellation that comes with the result.
    task = asyncio.ensure_future(awaited)
    waited, traffic = 0, None
    try:
        while waited < STEPS:
            await asyncio.wait([task], timeout=seconds / STEPS)
            if task.done():
                return task.result()
            before, traffic = traffic, None if connection is None else traffic_of(connection)
            waited = waited + 1 if traffic == before else 1
        raise asyncio.TimeoutError(f"no answer within {seconds:g} seconds")
    finally:
        task.cancel()
        while not task.done():
            # Who is cancelled once more is on the way out already.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
