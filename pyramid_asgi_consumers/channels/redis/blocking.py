"""Scripts that run in threads: each thread has a connection for a batch, and a deadline.

A thread waits for the timeout at most, in all that it does for the batch: for its turn where the
URL limits connections, for a connection, and for Redis (``deadlines.py``). Threads share what is of
their process: a fork begins with its own.

A finalizer or the handler of a signal may publish while it interrupts a publish of its own thread.
So nothing here may wait for something that its own thread holds.
"""

import queue
import time
from collections.abc import Callable, Iterable
from typing import Any

from redis import ConnectionPool
from redis.connection import Connection
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from pyramid_asgi_consumers.channels.forks import PerProcess
from pyramid_asgi_consumers.channels.redis.answers import (
    as_channels_error,
    is_elsewhere,
    unknown,
    unreachable,
)
from pyramid_asgi_consumers.channels.redis.connections import MOST_CONNECTIONS
from pyramid_asgi_consumers.channels.redis.deadlines import TIMED_CONNECTIONS, this_thread
from pyramid_asgi_consumers.channels.redis.scripts import Call, batch_of
from pyramid_asgi_consumers.channels.redis.urls import blocking_options

# As many connections are for more threads than any process has: none waits for its turn.
MOST_TURNS = 100_000


class Shared:
    """What the threads of one process share: connections, and turns where those are limited."""

    def __init__(self, pool: ConnectionPool, most: int | None) -> None:
        self.pool = pool
        # Unlike a Semaphore, a SimpleQueue does not wait for what its own thread was doing.
        self.turns: queue.SimpleQueue[None] | None = None
        if most is not None and most < MOST_TURNS:
            self.turns = queue.SimpleQueue()
            for _ in range(most):
                self.turns.put(None)


class BlockingCommands:
    """Runs scripts from any thread. Raises as redis-py does for a URL that it does not take.

    ``left_server()`` is called, in the thread, when the server said that it is not the one to talk
    to, and the connections to it are closed.
    """

    def __init__(self, url: str, timeout: float, left_server: Callable[[], None]) -> None:
        self.timeout = timeout
        self._url = url
        self._left_server = left_server
        self._shared = PerProcess(self._make_shared)
        self._shared()

    def _make_shared(self) -> Shared:
        # redis-py refuses the next thread at once, and allows 100 if the URL does not say.
        options = blocking_options(self._url, self.timeout)
        most = options.pop("max_connections", None)
        if most is not None and most < 1:
            raise ValueError(f"the option max_connections is at least 1, not {most}")
        kind = TIMED_CONNECTIONS[options.pop("connection_class", Connection)]
        pool = ConnectionPool(kind, most or MOST_CONNECTIONS, **options)
        return Shared(pool, most)

    @property
    def pool(self) -> ConnectionPool:
        return self._shared().pool

    @property
    def turns(self) -> "queue.SimpleQueue[None] | None":
        return self._shared().turns

    def run(self, calls: Iterable[Call], answered: Callable[[int, Any], Any]) -> list[Any]:
        """Run the calls in order; return for each what ``answered`` makes of its number and reply.

        In place of what failed stands the ChannelsError.
        """
        shared = self._shared()
        pool, turns = shared.pool, shared.turns
        # Something may run scripts in the midst of this, in the same thread.
        before = this_thread.deadline
        this_thread.deadline = time.monotonic() + self.timeout
        try:
            calls = list(calls)
            if turns is None:
                return self._run(pool, calls, answered)
            try:
                turn = turns.get(timeout=self.timeout)
            except queue.Empty:
                return [unreachable("max_connections are busy") for _ in calls]
            try:
                return self._run(pool, calls, answered)
            finally:
                turns.put(turn)
        finally:
            this_thread.deadline = before

    def _run(
        self, pool: ConnectionPool, calls: list[Call], answered: Callable[[int, Any], Any]
    ) -> list[Any]:
        try:
            connection = pool.get_connection()
        except (RedisError, OSError) as error:
            return [unreachable(error) for _ in calls]
        results: list[Any] = []
        elsewhere = False
        try:
            connection.send_packed_command(
                connection.pack_commands(batch_of(calls)), check_health=False
            )
            while len(results) < len(calls):
                try:
                    reply = connection.read_response()
                    results.append(answered(len(results), reply))
                except ResponseError as error:
                    results.append(as_channels_error(error))
                    elsewhere = elsewhere or is_elsewhere(error)
        except AuthenticationError as error:
            # Whoever is not let in once is not let in with what comes behind.
            elsewhere = True
            results += [as_channels_error(error) for _ in calls[len(results) :]]
        except BusyLoadingError as error:
            # redis-py reads no further. What comes behind may have been in time.
            elsewhere = True
            results.append(as_channels_error(error))
            results += [unknown(error) for _ in calls[len(results) :]]
        except (RedisError, OSError) as error:
            connection.disconnect()
            results += [unknown(error) for _ in calls[len(results) :]]
        finally:
            if elsewhere:
                connection.disconnect()
            pool.release(connection)
        if elsewhere:
            # Other threads' connections lead to the same server.
            self.close_idle()
            self._left_server()
        return results

    def close_idle(self) -> None:
        """Close the connections that no thread uses just now."""
        self.pool.disconnect(inuse_connections=False)
