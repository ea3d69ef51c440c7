"""Channels among any number of processes and machines, through Redis.

Each channel is one stream, which counts and keeps its events, and one Redis channel. On each event
loop all subscriptions share one connection, and all commands another.
"""

import asyncio
import hashlib
import inspect
import logging
import math
import os
import queue
import random
import re
import secrets
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis import ConnectionPool
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.connection import parse_url as parse_async_url
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry
from zope.interface import implementer

from pyramid_asgi_consumers.channels.base import (
    NOWHERE,
    Event,
    Feed,
    Gap,
    Item,
    Position,
    Row,
    Subscription,
    catch_up,
    decode,
    gap_between,
    make_event,
    make_id,
    position_of,
)
from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused, PublishUnknown
from pyramid_asgi_consumers.interfaces import IChannelsBackend
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

# Count, store and publish one event. A server that was restarted may have lost events whose numbers
# it would give out again, so each of its lives has an epoch of its own; the entry names the one
# before, by which a subscriber sees that nothing was lost. Without a history the entry is empty.
# ``longest`` is a length that no entry up to this one exceeds, by which READ knows how many it may
# read at once; behind a foreign entry nobody knows. Once the event is stored, an error no longer
# says that nothing was done, and is marked.
PUBLISH = """
local life = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'), 1, 8)
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local before, epoch, number, longest = '0-0', nil, 0, 0
if newest then
    before = newest[1]
    longest = newest[2][5] == 'longest' and tonumber(newest[2][6]) or 2 ^ 31
    epoch, number = string.match(before, '(%d+)-(%d+)')
end
if not newest or newest[2][2] ~= life then
    local now = redis.call('TIME')
    local fresh = now[1] .. string.format('%06d', now[2])
    if epoch and tonumber(fresh) <= tonumber(epoch) then
        fresh = string.format('%.0f', tonumber(epoch) + 1)
    end
    epoch, number = fresh, 0
end
local id = epoch .. '-' .. string.format('%.0f', tonumber(number) + 1)
local history = tonumber(ARGV[3])
local data = history > 0 and ARGV[2] or ''
redis.call('XADD', KEYS[1], 'MAXLEN', math.max(history, 1), id, 'life', life, 'before', before,
    'longest', string.format('%.0f', math.max(longest, #data)), 'data', data)
local kept = redis.pcall('EXPIRE', KEYS[1], ARGV[4])
local sent = redis.pcall('PUBLISH', ARGV[1], id .. ' ' .. ARGV[2])
local failed = type(kept) == 'table' and kept or type(sent) == 'table' and sent
if failed then return redis.error_reply('STORED ' .. failed['err']) end
return id
"""

# One page of what is stored: which life of the server answers, the newest id, and from ARGV[1] on
# (none if that is empty) up to ARGV[2] entries and ARGV[3] bytes, but for one entry: an index of
# ids, of those before them and of lengths, and all payloads in one. A foreign entry has no id
# before it. What is read at once has room whatever the entries' lengths are.
READ = """
local life = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'), 1, 8)
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local start, count, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local longest = newest and newest[2][5] == 'longest' and tonumber(newest[2][6]) or 2 ^ 31
local index, payloads = {}, {}
while newest and start ~= '' and count > 0 and room > 0 do
    local step = math.min(64, count, math.max(1, math.floor(room / math.max(1, longest))))
    local entries = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', step)
    for _, entry in ipairs(entries) do
        local fields, before, payload = entry[2], '?', ''
        if fields[3] == 'before' and fields[7] == 'data' then
            before, payload = string.match(fields[4], '^%d+%-%d+$') or '?', fields[8]
        end
        index[#index + 1] = entry[1] .. ' ' .. before .. ' ' .. #payload
        payloads[#payloads + 1] = payload
        room = room - #payload
    end
    if #entries < step then break end
    count = count - #entries
    local epoch, number = string.match(entries[#entries][1], '(%d+)-(%d+)')
    start = epoch .. '-' .. string.format('%.0f', tonumber(number) + 1)
end
return {life, newest and newest[1] or '', table.concat(index, ' '), table.concat(payloads)}
"""

# Whether the server is a master, and which of its lives this is.
ROLE = """
local life = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'), 1, 8)
return {string.match(redis.call('INFO', 'replication'), 'role:(%w+)'), life}
"""

# Members by the time at which they expire; ARGV[1] is for how long they are kept.
ENTER = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""
LEAVE = "redis.call('ZREM', KEYS[1], ARGV[1])"
PRESENT = """
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. redis.call('TIME')[1], '+inf')
"""

#: Seconds after which the members of a process that was killed are gone.
PRESENCE_EXPIRY = 20
#: Seconds between two signs of life, of this process to Redis and of Redis to it.
BEAT = 6.0
#: Seconds between two attempts to reconnect, at least and at most.
BACKOFF = (0.1, 5.0)

#: Options of a URL that are honoured, besides those of TLS. ``max_connections`` is of the threads
#: that publish: each waits for its turn.
OPTIONS = (
    "client_name",
    "db",
    "max_connections",
    "password",
    "socket_keepalive",
    "username",
)
#: Options of TLS that threads' and event loops' connections have.
SSL_OPTIONS = tuple(
    name
    for name in inspect.signature(SSLConnection).parameters
    if name.startswith("ssl_") and name in inspect.signature(AsyncSSLConnection).parameters
)
#: Options of a URL that are for an application's own connections: here they change nothing.
OVERRIDDEN = (
    "decode_responses",
    "encoding",
    "encoding_errors",
    "health_check_interval",
    "legacy_responses",
    "lib_name",
    "lib_version",
    "protocol",
    "socket_read_size",
)
#: Options of a URL that would break what is promised, and what to do instead.
REFUSED = {
    "retry_on_error": "a publish is tried once, since it may have been carried out",
    "retry_on_timeout": "a publish is tried once, since it may have been carried out",
    "socket_connect_timeout": "set asgi.channels.timeout",
    "socket_timeout": "set asgi.channels.timeout",
    "timeout": "set asgi.channels.timeout",
}

#: What an outage of Redis raises.
EXPECTED = (ChannelsError, RedisError, OSError, asyncio.TimeoutError)

#: What Redis answers to a command that it did not carry out.
ANSWERS = (ResponseError, BusyLoadingError, AuthenticationError)

CLOSED = "the connection was closed"

# More than any process has; redis-py wants a number.
MOST_CONNECTIONS = 2**31
# As many connections are for more threads than any process has: none waits for its turn.
MOST_TURNS = 100_000

# How many commands go to Redis in one go.
BATCH = 256

# A page of what is stored: entries and bytes at most, but for one long entry. Redis makes a page in
# about a millisecond, in which it does nothing else.
PAGE = 256
PAGE_BYTES = 256 * 1024
# In how many steps a timeout passes; what moves meanwhile is seen at each.
STEPS = 5
# How many pages are asked for ahead.
AHEAD = 16
# Live events and their bytes that wait for the end of a reading; beyond, they are read with it, and
# after so many times as it was prolonged for that, are missing.
HELD = 1000
HELD_BYTES = 16 * 1024 * 1024
FURTHER = 3
# Later than any epoch.
NEVER = 2**63


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
        _check_url(url)
        self._url = url
        # What threads share, of each process: a fork begins with its own.
        self._shared: dict[int, _Shared] = {}
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

    def _share(self) -> "_Shared":
        pid = os.getpid()
        shared = self._shared.get(pid)
        if shared is None:
            shared = self._shared.setdefault(pid, self._make_shared())
            self._shared = {pid: shared}
        return shared

    def _make_shared(self) -> "_Shared":
        # redis-py refuses the next thread at once, and allows 100 if the URL does not say.
        options = self._options(parse_url(self._url))
        most = options.pop("max_connections", None)
        if most is not None and most < 1:
            raise ValueError(f"the option max_connections is at least 1, not {most}")
        kind = _TIMED[options.pop("connection_class", Connection)]
        pool = ConnectionPool(kind, most or MOST_CONNECTIONS, **options)
        return _Shared(pool, most)

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
        before = _this_thread.deadline
        _this_thread.deadline = time.monotonic() + self.timeout
        try:
            if turns is None:
                return self._publish_many(messages)
            try:
                turn = turns.get(timeout=self.timeout)
            except queue.Empty:
                return [_unreachable("max_connections are busy") for _ in messages]
            try:
                return self._publish_many(messages)
            finally:
                turns.put(turn)
        finally:
            _this_thread.deadline = before

    def _publish_many(self, messages: list[tuple[str, bytes]]) -> list[str | ChannelsError]:
        pool = self._pool
        try:
            connection = pool.get_connection()
        except (RedisError, OSError) as error:
            return [_unreachable(error) for _ in messages]
        results: list[str | ChannelsError] = []
        elsewhere = False
        try:
            calls = [(PUBLISH, self._publish_arguments(*message)) for message in messages]
            connection.send_packed_command(
                connection.pack_commands(_evaluations(calls)), check_health=False
            )
            while len(results) < len(messages):
                try:
                    reply = connection.read_response()
                    results.append(self._published(messages[len(results)][0], reply))
                except ResponseError as error:
                    results.append(_refused(error))
                    elsewhere = elsewhere or _is_elsewhere(error)
        except AuthenticationError as error:
            # Whoever is not let in once is not let in with what comes behind.
            elsewhere = True
            results += [_refused(error) for _ in messages[len(results) :]]
        except BusyLoadingError as error:
            # redis-py reads no further. What comes behind may have been in time.
            elsewhere = True
            results.append(_refused(error))
            results += [_unknown(error) for _ in messages[len(results) :]]
        except (RedisError, OSError) as error:
            connection.disconnect()
            results += [_unknown(error) for _ in messages[len(results) :]]
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
        position = _position(reply)
        redis_channel = self.redis_channel(channel)
        with self._lock:
            for loop in self._loops.values():
                feed = loop.hub.feeds.get(redis_channel) if loop.hub is not None else None
                if feed is not None and _is_after(position, feed.published):
                    feed.published = position
        return make_id(position)

    async def attach(self, subscription: Subscription) -> None:
        loop = self._loop()
        if loop.hub is None:
            loop.hub = _Hub(self, loop.connections, loop.commands)
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


class _Shared:
    # What threads share: connections, turns where those are limited, and a lock. What interrupts a
    # publish in its own thread may publish, so none of them may wait for their own thread, as a
    # Semaphore does.

    def __init__(self, pool: ConnectionPool, most: int | None) -> None:
        self.pool = pool
        self.turns: queue.SimpleQueue[None] | None = None
        if most is not None and most < MOST_TURNS:
            self.turns = queue.SimpleQueue()
            for _ in range(most):
                self.turns.put(None)
        self.lock = threading.RLock()


class _ThisThread(threading.local):
    # When what this thread waits for is given up.
    deadline = math.inf


_this_thread = _ThisThread()


class _TimedSocket:
    # A socket that waits until the thread's deadline, and no longer: its own timeout begins anew
    # with each byte that arrives.

    def __init__(self, connected: Any) -> None:
        self._socket = connected

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def _wait_no_longer(self) -> None:
        # With 0 redis-py looks whether anything is there.
        if self._socket.gettimeout() != 0:
            left = _this_thread.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(None if left == math.inf else left)

    def recv(self, *arguments: Any) -> bytes:
        self._wait_no_longer()
        return self._socket.recv(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self._wait_no_longer()
        return self._socket.recv_into(*arguments)

    def sendall(self, data: bytes) -> None:
        # An SSLSocket, too, begins anew with each part.
        rest = memoryview(data)
        while rest:
            self._wait_no_longer()
            rest = rest[self._socket.send(rest) :]


class _Timed:
    # A connection that is made, and used, until the thread's deadline, however many addresses there
    # are to try: redis-py asks before each.

    @property
    def socket_connect_timeout(self) -> float | None:
        left = max(_this_thread.deadline - time.monotonic(), 0.001)
        return None if left == math.inf else left

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float | None) -> None:
        """The deadline says it."""

    def _connect(self) -> _TimedSocket:
        return _TimedSocket(super()._connect())


class _TimedConnection(_Timed, Connection):
    pass


class _TimedSSLConnection(_Timed, SSLConnection):
    pass


class _TimedUnixConnection(_Timed, UnixDomainSocketConnection):
    pass


_TIMED = {
    Connection: _TimedConnection,
    SSLConnection: _TimedSSLConnection,
    UnixDomainSocketConnection: _TimedUnixConnection,
}


class _Loop:
    # What the backend has on one event loop.

    def __init__(self, backend: RedisBackend, pool: AsyncConnectionPool) -> None:
        self.connections = _Connections(pool, backend.timeout)
        self.commands = _Commands(self.connections, backend.timeout)
        self.hub: _Hub | None = None


class _Connections:
    # Connections for some exchanges each; in between they are kept.

    def __init__(self, pool: AsyncConnectionPool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._shutdown: AsyncGenerator[None, None] | None = None

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[AsyncConnection, None]:
        if self._shutdown is None:
            self._shutdown = self._until_shutdown()
            await self._shutdown.__anext__()
        getting = asyncio.ensure_future(self._pool.get_connection())
        try:
            connection = await _within(self._timeout, getting)
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
        if self._shutdown is not None:
            await self._shutdown.aclose()


class _Command:
    __slots__ = ("script", "arguments", "future", "sent")

    def __init__(self, script: str, arguments: tuple[Any, ...]) -> None:
        self.script = script
        self.arguments = arguments
        self.future = asyncio.get_running_loop().create_future()
        self.future.add_done_callback(_note)
        self.sent = False

    def settle(self, reply: Any) -> None:
        if self.future.done():
            return
        if isinstance(reply, ChannelsError):
            self.future.set_exception(reply)
        else:
            self.future.set_result(reply)

    def give_up(self, reason: object) -> None:
        self.settle(_unknown(reason) if self.sent else _unreachable(reason))


class _Commands:
    # Scripts, run in order over one connection. A task of its own sends and reads, so that a
    # caller who is cancelled does not tear the connection down under the others.

    def __init__(self, connections: _Connections, timeout: float) -> None:
        self._connections = connections
        self._timeout = timeout
        self._waiting: OrderedDict[_Command, None] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        # Set when a server said that it is not the one to talk to.
        self.elsewhere = asyncio.Event()

    async def run(self, script: str, *arguments: Any) -> Any:
        return await self.answer(self.submit(script, *arguments))

    def submit(self, script: str, *arguments: Any) -> _Command:
        command = _Command(script, arguments)
        self._waiting[command] = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        return command

    async def answer(self, command: _Command) -> Any:
        # A command that was given up before it was sent never is.
        try:
            await asyncio.wait([command.future], timeout=self._timeout)
        except asyncio.CancelledError:
            self._waiting.pop(command, None)
            command.future.cancel()
            raise
        self.give_up(command)
        return command.future.result()

    def give_up(self, command: _Command) -> None:
        self._waiting.pop(command, None)
        command.give_up(f"no answer within {self._timeout:g} seconds")

    async def _work(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), BATCH)
                await self._send([self._waiting.popitem(last=False)[0] for _ in range(count)])
        finally:
            self._task = None
            while self._waiting:
                self._waiting.popitem(last=False)[0].give_up(CLOSED)

    async def _send(self, batch: list[_Command]) -> None:
        reason: object = CLOSED
        exchange = _Exchange(batch)
        try:
            async with self._connections.take() as connection:
                await _within(self._timeout, exchange.run(connection), connection)
                if exchange.elsewhere:
                    await connection.disconnect(nowait=True)
            if exchange.elsewhere:
                await self._connections.leave_server()
                self.elsewhere.set()
        except EXPECTED as error:
            reason = error
        finally:
            # Last of all, so that who goes on finds nothing running.
            exchange.end(reason)

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


class _Exchange:
    # One batch, sent at once; each is answered when its reply is there, but for the last.

    def __init__(self, batch: list[_Command]) -> None:
        self._commands = batch
        self._replies: list[Any] = []
        self.elsewhere = False

    async def run(self, connection: AsyncConnection) -> None:
        commands = [command for command in self._commands if not command.future.done()]
        self._commands = commands
        for command in commands:
            command.sent = True
        calls = _evaluations((command.script, command.arguments) for command in commands)
        await connection.send_packed_command(connection.pack_commands(calls), check_health=False)
        replies = self._replies
        for _ in commands:
            if replies:
                commands[len(replies) - 1].settle(replies[-1])
            try:
                replies.append(await connection.read_response(disconnect_on_error=False))
            except ANSWERS as error:
                replies.append(_refused(error))
                self.elsewhere = self.elsewhere or _is_elsewhere(error)

    def end(self, reason: object) -> None:
        for command, reply in zip(self._commands, self._replies, strict=False):
            command.settle(reply)
        for command in self._commands[len(self._replies) :]:
            command.give_up(reason)


class _Joiner:
    # A subscription on its way to what is live. It has had everything up to ``after`` (None: it
    # comes from a place that cannot be told), and is ``ready`` to be entered from its first page
    # on. ``reached`` is where its replay ended, which may be ahead of what is live, ``gap`` what is
    # missing there; what is published in epochs from ``behind`` on was before that. Up to
    # ``target``, the newest id at its first page, it is a replay; beyond, it is ``live`` and counts
    # as what arrives does. Who comes while the feed catches up begins ``at_head``.
    __slots__ = (
        "after",
        "at_head",
        "behind",
        "gap",
        "live",
        "reached",
        "reading",
        "ready",
        "target",
    )

    def __init__(
        self,
        after: Position | None = None,
        reached: Position | None = None,
        at_head: bool = False,
        behind: int = NEVER,
    ) -> None:
        self.after = after
        self.reached = reached
        self.at_head = at_head
        self.behind = behind
        self.gap: Gap | None = None
        self.reading: _Reading | None = None
        self.ready = reached is not None
        self.target: Position | None = None
        self.live = False

    def take(self, subscription: Subscription, items: list[Item], head: Position) -> None:
        if self.target is None:
            self.target = head
        if self.live:
            for item in items:
                subscription.put(item)
        else:
            subscription.replay(items)
        self.live = self.after >= self.target


class _Reading:
    # One way through what is stored, page by page, for all who wanted it when it began. ``after``
    # is how far it got, None where the newest id is enough; ``target`` is where it ends, the newest
    # id at its first page; ``held`` came meanwhile, ``lost`` is the last that had no room there.
    # Then it goes ``further``, though not for ever, however much is published. ``behind`` is the
    # epoch in which the feed stood when it began.
    __slots__ = ("after", "begun", "behind", "further", "held", "lost", "size", "target")

    def __init__(self, after: Position | None, behind: int) -> None:
        self.after = after
        self.behind = behind
        self.begun = False
        self.target = self.lost = NOWHERE
        self.further = FURTHER
        self.held: deque[tuple[Position, Event]] = deque()
        self.size = 0

    def hold(self, position: Position, event: Event) -> None:
        self.held.append((position, event))
        self.size += event.size
        while len(self.held) > HELD or (self.size > HELD_BYTES and len(self.held) > 1):
            self.lost, oldest = self.held.popleft()
            self.size -= oldest.size

    def is_over(self, upto: Position | None, more: bool) -> bool:
        if more and upto < self.target:
            return False
        if self.further and self.lost > (upto or NOWHERE):
            self.further -= 1
            self.target = self.lost
            return False
        return True


class _Feed(Feed):
    # Until it is settled, ``last`` is where its subscribers stand, and what comes after that is
    # read; from then on what arrives is delivered, but for what is still on its way from before it
    # was read: from epochs that are ``behind`` or later, and earlier than that of ``last``.
    __slots__ = (
        "asked",
        "behind",
        "confirmed",
        "joining",
        "missed",
        "published",
        "reading",
        "settled",
        "waiters",
    )

    def __init__(self, channel: str, missed: bool) -> None:
        super().__init__(channel, None)
        # Whether Redis sends its events, and whether a page of it is on its way.
        self.confirmed = self.asked = False
        self.settled = False
        self.reading: _Reading | None = None
        self.joining: dict[Subscription, _Joiner] = {}
        # Whether it was out of touch before it ever stood anywhere.
        self.missed = missed
        # The newest event that this process published.
        self.published = NOWHERE
        self.behind = NEVER
        self.waiters: list[asyncio.Future[None]] = []

    def begin(self) -> None:
        # On a new connection. Where each stands is kept.
        self.confirmed = self.asked = self.settled = False
        self.reading = None

    def lose_touch(self) -> None:
        self.missed = True
        for subscription, joiner in list(self.joining.items()):
            if joiner.at_head and joiner.reached is None:
                self._joined(subscription)
        self.wake()

    def add(self, subscription: Subscription, since: str | None, in_touch: bool) -> None:
        if since is not None:
            self.joining[subscription] = _Joiner(position_of(since))
        elif self.last is not None and self.published > self.last:
            self.joining[subscription] = _Joiner(reached=self.published, behind=self.last[0])
        elif self.last is not None and not self.settled and in_touch:
            self.joining[subscription] = _Joiner(at_head=True)
        else:
            self.subscribers[subscription] = None

    def waits_for(self, subscription: Subscription) -> bool:
        joiner = self.joining.get(subscription)
        return self.last is None if joiner is None else not joiner.ready

    def wants_more(self) -> bool:
        return not self.settled or any(j.reached is None for j in self.joining.values())

    def receive(self, position: Position, event: Event) -> None:
        if self.reading is not None:
            self.reading.hold(position, event)
        if self.settled:
            self.deliver(position, event)

    def deliver(self, position: Position, event: Event) -> None:
        if self.last is None or position[0] >= self.last[0]:
            self.behind = NEVER
        elif self.behind <= position[0]:
            return
        else:
            # The server's clock was put back, and nothing is left of what was.
            self.published = NOWHERE
        super().deliver(position, event)

    def put(self, item: Item) -> None:
        super().put(item)
        if not self.joining:
            return
        position = None if isinstance(item, Gap) else position_of(item.id)
        for subscription, joiner in list(self.joining.items()):
            if joiner.reached is None:
                continue
            if position is None:
                joiner.gap = item
            elif not _is_before(position, joiner.reached, joiner.behind):
                self._join(subscription, joiner, position, 1)
                subscription.put(item)
            else:
                joiner.gap = None

    def _join(
        self, subscription: Subscription, joiner: _Joiner, position: Position, present: int
    ) -> None:
        # Of what is missing the subscriber may have had a part.
        gap = joiner.gap
        if gap is not None and joiner.reached[0] == position[0]:
            missed = position[1] - joiner.reached[1] - present
            gap = Gap(self.channel, missed) if missed > 0 else None
        if gap is not None:
            subscription.put(gap)
        self._joined(subscription)

    def _joined(self, subscription: Subscription) -> None:
        del self.joining[subscription]
        self.subscribers[subscription] = None

    def next_page(self) -> Position | None:
        # After which entry the next page begins, None where the newest id is enough.
        pending = [joiner for joiner in self.joining.values() if joiner.reached is None]
        reading = self.reading
        if reading is not None and self.settled:
            if not any(joiner.reading is reading for joiner in pending):
                reading = None
        if reading is None:
            after = [joiner.after or NOWHERE for joiner in pending if not joiner.at_head]
            others = self.subscribers or len(pending) < len(self.joining)
            if not self.settled and self.last is not None and others:
                after.append(self.last)
            behind = 0 if self.last is None else self.last[0]
            reading = self.reading = _Reading(min(after, default=None), behind)
            for joiner in pending:
                joiner.reading = reading
        for joiner in pending:
            if joiner.at_head:
                joiner.reading = reading
        return reading.after

    def take_page(self, head: Position | None, rows: list[Row], end: Position | None) -> None:
        # ``head`` is the newest id, ``end`` that of the page's last entry, be it foreign.
        reading = self.reading
        joiners = {
            subscription: joiner
            for subscription, joiner in self.joining.items()
            if joiner.reached is None and joiner.reading is reading
        }
        if not reading.begun:
            reading.begun = True
            reading.target = head or NOWHERE
            if head is not None and self._begin_anew(joiners.values(), head):
                return
        more = end is not None and head is not None and end < head
        upto = end if more else head
        self._page_live(head, upto, rows)
        self._page_joining(joiners, head, upto, rows)
        if reading.after is not None:
            reading.after = upto or NOWHERE
        if reading.is_over(upto, more):
            self._end_reading(joiners)
        for subscription, joiner in list(self.joining.items()):
            if joiner.reached is not None and not _is_after(joiner.reached, self.last):
                self._join(subscription, joiner, self.last, 0)
        self.wake()

    def _begin_anew(self, joiners: Iterable[_Joiner], head: Position) -> bool:
        # Who comes from a place that never was gets everything.
        anew = False
        for joiner in joiners:
            if joiner.after is not None and joiner.after > head:
                joiner.after = None
                anew = self.reading.after != NOWHERE
        if anew:
            self.reading.after = NOWHERE
        return anew

    def _page_live(self, head: Position | None, upto: Position | None, rows: list[Row]) -> None:
        if self.settled:
            return
        if self.last is None:
            if self.missed:
                self.put(Gap(self.channel, None))
            self.last = head or NOWHERE
            self._settle()
        else:
            before = self.last
            items, self.last = self._lead(before, head, upto, rows, again=False)
            if 0 < before[0] < self.last[0]:
                self.behind = min(self.behind, before[0])
            if self.last[0] < self.published[0]:
                self.published = NOWHERE
            for item in items:
                self.put(item)

    def _settle(self) -> None:
        self.settled = True
        for position, event in self.reading.held:
            self.deliver(position, event)

    def _page_joining(
        self,
        joiners: dict[Subscription, _Joiner],
        head: Position | None,
        upto: Position | None,
        rows: list[Row],
    ) -> None:
        # Most of them stand at the same place, and share what leads on from it.
        led: dict[Position | None, tuple[list[Item], Position]] = {}
        for subscription, joiner in joiners.items():
            joiner.ready = True
            if joiner.at_head:
                joiner.reached = head or NOWHERE
                joiner.behind = self.reading.behind
                continue
            if joiner.after not in led:
                led[joiner.after] = self._lead(joiner.after, head, upto, rows, again=True)
            before = joiner.after
            items, joiner.after = led[before]
            if head is None and before is not None and before[0] == self.reading.behind:
                # Nothing is stored, but what was may still be on its way.
                joiner.after = before
            joiner.take(subscription, items, head or NOWHERE)

    def _lead(
        self,
        after: Position | None,
        head: Position | None,
        upto: Position | None,
        rows: list[Row],
        again: bool,
    ) -> tuple[list[Item], Position]:
        if after is not None and head is not None:
            if upto <= after <= head:
                return [], after
            if after > head and not again:
                upto = head
        return catch_up(self.channel, after, upto, rows, again)

    def _end_reading(self, joiners: dict[Subscription, _Joiner]) -> None:
        if not self.settled:
            self._settle()
        followed: dict[Position, tuple[list[Item], Position]] = {}
        for subscription, joiner in joiners.items():
            if joiner.reached is None:
                if joiner.after not in followed:
                    followed[joiner.after] = self._follow(joiner.after, self.reading)
                items, joiner.reached = followed[joiner.after]
                joiner.behind = self.reading.behind
                for item in items:
                    subscription.put(item)
        self.reading = None

    def _follow(self, reached: Position, reading: _Reading) -> tuple[list[Item], Position]:
        items: list[Item] = []
        for position, event in reading.held:
            if not _is_before(position, reached, reading.behind):
                gap = gap_between(self.channel, reached, position)
                items += [event] if gap is None else [gap, event]
                reached = position
        return items, reached

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class _Hub:
    # All subscriptions of one event loop, from the first one to the last one out.

    def __init__(
        self, backend: RedisBackend, connections: _Connections, commands: _Commands
    ) -> None:
        self.feeds: dict[bytes, _Feed] = {}
        self._backend = backend
        self._connections = connections
        self._commands = commands
        self._token = secrets.token_hex(8).encode()
        self._members: dict[str, Counter[bytes]] = {}
        # When Redis went out of reach, None while it is there.
        self._outage: float | None = None
        self._attempt = 0
        self._life = b""
        self._closed = False
        self._begin()
        self.task = asyncio.get_running_loop().create_task(self._run())

    def _begin(self) -> None:
        # What belongs to one connection.
        for feed in self.feeds.values():
            feed.begin()
        self._changes: deque[tuple[Any, ...]] = deque()
        self._changed = asyncio.Event()
        self._unconfirmed: Counter[bytes] = Counter()
        # Feeds of which a page is to be read: the first one, and one more. They take turns, so that
        # a newcomer does not wait for others' long histories, nor those for newcomers.
        self._first: dict[_Feed, None] = {}
        self._further: dict[_Feed, None] = {}
        self._firsts = False
        self._wanted = asyncio.Event()
        for redis_channel in self.feeds:
            self._change("SUBSCRIBE", redis_channel)

    async def attach(self, subscription: Subscription) -> None:
        entered = []
        feeds = []
        for name in subscription.channels:
            feed = self._attach(name, subscription)
            feeds.append(feed)
            if subscription.presence is not None:
                members = self._members.setdefault(name, Counter())
                members[subscription.presence] += 1
                if members[subscription.presence] == 1:
                    entered.append(self._enter(name, [subscription.presence]))
        for feed in feeds:
            while not self._closed and self._outage is None and feed.waits_for(subscription):
                feed.waiters.append(asyncio.get_running_loop().create_future())
                await feed.waiters[-1]
        try:
            for command in entered:
                await self.answer(command)
        except ChannelsError as error:
            log.debug("Members will be entered again: %s", Shown(error))
        if self._closed:
            raise ChannelsError("The channels were closed while a subscription was entered")

    def close(self) -> None:
        self._closed = True
        self.task.cancel()
        for feed in self.feeds.values():
            for subscription in (*feed.subscribers, *feed.joining):
                subscription.end()
            feed.wake()

    def _attach(self, name: str, subscription: Subscription) -> _Feed:
        redis_channel = self._backend.redis_channel(name)
        feed = self.feeds.get(redis_channel)
        if feed is None:
            feed = self.feeds[redis_channel] = _Feed(name, self._outage is not None)
            self._change("SUBSCRIBE", redis_channel)
        feed.add(subscription, subscription.since.get(name), self._outage is None)
        self._want(feed)
        return feed

    def _want(self, feed: _Feed) -> None:
        if feed.confirmed and not feed.asked and feed.wants_more():
            self._further.pop(feed, None)
            self._first[feed] = None
            self._wanted.set()

    def detach(self, subscription: Subscription) -> list[_Command]:
        # At once, as far as this process goes; what is returned tells Redis who left.
        left = []
        for name in subscription.channels:
            redis_channel = self._backend.redis_channel(name)
            feed = self.feeds.get(redis_channel)
            if feed is None or not (
                subscription in feed.subscribers or subscription in feed.joining
            ):
                continue
            feed.subscribers.pop(subscription, None)
            feed.joining.pop(subscription, None)
            if not feed.subscribers and not feed.joining:
                del self.feeds[redis_channel]
                self._change("UNSUBSCRIBE", redis_channel)
            if subscription.presence is not None:
                members = self._members[name]
                members[subscription.presence] -= 1
                if not members[subscription.presence]:
                    del members[subscription.presence]
                    left.append(self._leave(name, subscription.presence))
                if not members:
                    del self._members[name]
        return left

    async def answer(self, command: _Command) -> Any:
        # None where Redis refused, as it does if foreign data is under a key of ours.
        try:
            return await self._commands.answer(command)
        except PublishRefused as error:
            if not isinstance(error.__cause__, ResponseError) or _passes(error.__cause__):
                raise
            log.warning(
                "Skipped what is under %s: %s",
                Shown(command.arguments[0]),
                Shown(error.__cause__),
            )
            return None

    def _enter(self, name: str, members: Iterable[bytes]) -> _Command:
        return self._commands.submit(
            ENTER,
            self._backend.members(name),
            PRESENCE_EXPIRY,
            *(self._token + b":" + member for member in members),
        )

    def _leave(self, name: str, member: bytes) -> _Command:
        return self._commands.submit(
            LEAVE, self._backend.members(name), self._token + b":" + member
        )

    def _change(self, *command: Any) -> None:
        self._changes.append(command)
        self._changed.set()

    async def _run(self) -> None:
        while True:
            connection = self._backend.make_subscriber()
            try:
                await _within(self._backend.timeout, connection.connect())
                await self._serve(connection)
            except Exception as error:
                self._is_out(error)
            finally:
                await connection.disconnect(nowait=True)
            # Those that are idle may lead to another server than new ones.
            await self._connections.leave_server()
            self._attempt += 1
            least, most = BACKOFF
            await asyncio.sleep(random.uniform(least, min(most, least * 2**self._attempt)))

    def _is_out(self, error: Exception) -> None:
        if self._outage is None:
            self._outage = time.monotonic()
            log.warning(
                "Subscriptions are out of touch with Redis, and try again: %s",
                Shown(error),
                exc_info=not isinstance(error, EXPECTED),
            )
        for feed in self.feeds.values():
            feed.lose_touch()

    def _is_back(self) -> None:
        self._attempt = 0
        if self._outage is not None:
            log.warning(
                "Subscriptions are in touch with Redis again, after %.1f seconds",
                time.monotonic() - self._outage,
            )
            self._outage = None

    async def _serve(self, connection: AsyncConnection) -> None:
        self._begin()
        self._life = await _within(self._backend.timeout, _greet(connection))
        duties = (
            self._write(connection),
            self._read(connection),
            self._settle(),
            self._beat(connection),
            self._watch(),
        )
        tasks = [asyncio.ensure_future(duty) for duty in duties]
        try:
            # None of them ends but by an error.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done.pop().result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, connection: AsyncConnection) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            changes, self._changes = self._changes, deque()
            for change in changes:
                if change[0] == "SUBSCRIBE":
                    self._unconfirmed[change[1]] += 1
            await connection.send_packed_command(
                connection.pack_commands(changes), check_health=False
            )

    async def _read(self, connection: AsyncConnection) -> None:
        while True:
            reply = await connection.read_response(disconnect_on_error=False)
            if reply[0] == b"message":
                self._receive(reply[1], reply[2])
                # The subscribers' turn: more of a burst may be buffered already.
                await asyncio.sleep(0)
            elif reply[0] == b"subscribe":
                self._confirm(reply[1])

    def _receive(self, redis_channel: bytes, message: bytes) -> None:
        feed = self.feeds.get(redis_channel)
        if feed is None:
            return
        try:
            event_id, payload = message.split(b" ", 1)
            position = _position(event_id)
            event = _event(feed, position, payload)
        except ValueError as error:
            log.warning("Skipped foreign bytes on %s: %s", Shown(redis_channel), Shown(error))
        else:
            feed.receive(position, event)

    def _confirm(self, redis_channel: bytes) -> None:
        # Only the last of several confirmations is that of the feed which is there now.
        self._unconfirmed[redis_channel] -= 1
        if not self._unconfirmed[redis_channel]:
            del self._unconfirmed[redis_channel]
            feed = self.feeds.get(redis_channel)
            if feed is not None:
                feed.confirmed = True
                self._want(feed)

    async def _settle(self) -> None:
        while True:
            await self._wanted.wait()
            await self._read_stored()

    async def _read_stored(self) -> None:
        # On a connection of its own, so that it holds up neither publishers nor live events. Where
        # it breaks, what has arrived is kept, and only the pages on their way are asked for again.
        timeout = self._backend.timeout
        asked: deque[_Feed] = deque()
        progress = False
        try:
            async with self._connections.take() as connection:
                while asked or self._first or self._further:
                    if len(asked) <= AHEAD // 2:
                        await _within(timeout, self._ask(connection, asked), connection)
                    if asked:
                        page = await _within(timeout, _page(connection), connection)
                        self._take(asked[0], page)
                        asked.popleft()
                        progress = True
                        # Everybody's turn.
                        await asyncio.sleep(0)
                self._wanted.clear()
        except EXPECTED as error:
            if not progress:
                raise
            log.debug("What is stored is read on, after: %s", Shown(error))
            for feed in asked:
                feed.asked = False
                self._want(feed)

    async def _ask(self, connection: AsyncConnection, asked: deque[_Feed]) -> None:
        calls: list[tuple[str, tuple[Any, ...]]] = []
        while len(asked) < AHEAD and (self._first or self._further):
            feed = self._next()
            if not self._has(feed):
                continue
            after = feed.next_page()
            start = "" if after is None else f"{after[0]}-{after[1] + 1}"
            calls.append((READ, (self._backend.stream(feed.channel), start, PAGE, PAGE_BYTES)))
            feed.asked = True
            asked.append(feed)
        if calls:
            commands = connection.pack_commands(_evaluations(calls))
            await connection.send_packed_command(commands, check_health=False)

    def _next(self) -> _Feed:
        self._firsts = not self._firsts
        feeds = self._first if self._firsts and self._first or not self._further else self._further
        feed = next(iter(feeds))
        del feeds[feed]
        return feed

    def _has(self, feed: _Feed) -> bool:
        return self.feeds.get(self._backend.redis_channel(feed.channel)) is feed

    def _take(self, feed: _Feed, page: Any) -> None:
        feed.asked = False
        if not self._has(feed):
            return
        stream = self._backend.stream(feed.channel)
        if isinstance(page, ResponseError):
            log.warning("Skipped what is under %s: %s", Shown(stream), Shown(page))
            page = [self._life, b"", b"", b""]
        life, head, index, payloads = page
        if life != self._life:
            raise ConnectionError(f"two servers answer: {self._life!r} and {life!r}")
        rows, end = _rows(feed, stream, index.split(), payloads)
        feed.take_page(_position(head) if head else None, rows, end)
        if feed.reading is not None:
            self._further[feed] = None
        else:
            self._want(feed)
        self._is_back()

    async def _beat(self, connection: AsyncConnection) -> None:
        arrived = -1
        while True:
            refused = await self._enter_again()
            await asyncio.sleep(BEAT)
            if refused is not None:
                raise refused
            before, (arrived, _) = arrived, _traffic(connection)
            if arrived == before:
                raise TimeoutError(f"no sign of life within {BEAT:g} seconds")
            self._change("PING")

    async def _enter_again(self) -> ChannelsError | None:
        refused: ChannelsError | None = None
        names = list(self._members)
        for start in range(0, len(names), BATCH):
            entered = [
                self._enter(name, self._members[name])
                for name in names[start : start + BATCH]
                if name in self._members
            ]
            for command in entered:
                try:
                    await self.answer(command)
                except ChannelsError as error:
                    # They are entered again at the next beat.
                    if _is_elsewhere(error.__cause__):
                        refused = error
        return refused

    async def _watch(self) -> None:
        # Behind one address may be another server meanwhile, to which new connections lead. A
        # replica that was one from the beginning is left alone: it has all events, too.
        was_master = False
        while True:
            self._commands.elsewhere.clear()
            try:
                role, life = await self._commands.run(ROLE, self._backend.stream(""))
            except ChannelsError as error:
                # It may be that commands are slow. The beat shows whether Redis is there.
                if _is_elsewhere(error.__cause__):
                    raise
            else:
                if life != self._life or (was_master and role != b"master"):
                    raise ConnectionError(f"the server is {role.decode()} now, in life {life!r}")
                was_master = role == b"master"
            with suppress(asyncio.TimeoutError):
                await _within(BEAT, self._commands.elsewhere.wait())


def _note(future: asyncio.Future[Any]) -> None:
    # Who asked may have been cancelled meanwhile, and never hear of the failure.
    if not future.cancelled() and future.exception() is not None:
        log.debug("A command failed: %s", Shown(future.exception()))


class _Reader(asyncio.StreamReader):
    # Counts what arrives, of which redis-py tells only when a reply is complete.
    arrived = 0

    def feed_data(self, data: bytes) -> None:
        self.arrived += 1
        super().feed_data(data)


def _traffic(connection: AsyncConnection) -> tuple[int, int]:
    # Changes whenever something arrives, or goes.
    reader, writer = connection._reader, connection._writer
    if reader is None:
        return 0, 0
    # It was made by asyncio, which offers no other way to watch it.
    reader.__class__ = _Reader
    return reader.arrived, writer.transport.get_write_buffer_size()


async def _within(
    seconds: float, awaited: Awaitable[Any], connection: AsyncConnection | None = None
) -> Any:
    # Within as much time altogether, or without as much time in which nothing moves on the
    # connection. asyncio.wait_for of Python 3.11 and before loses a cancellation that comes with
    # the result. What was awaited is done, or cancelled and done, when this returns.
    task = asyncio.ensure_future(awaited)
    waited, traffic = 0, None
    try:
        while waited < STEPS:
            await asyncio.wait([task], timeout=seconds / STEPS)
            if task.done():
                return task.result()
            before, traffic = traffic, None if connection is None else _traffic(connection)
            waited = waited + 1 if traffic == before else 1
        raise asyncio.TimeoutError(f"no answer within {seconds:g} seconds")
    finally:
        task.cancel()
        while not task.done():
            # Who is cancelled once more is on the way out already.
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])


async def _greet(connection: AsyncConnection) -> bytes:
    # Which of the server's lives this is.
    await connection.send_command("INFO", "server", check_health=False)
    found = re.search(rb"run_id:(\w{8})", await connection.read_response())
    return found[1] if found else b""


async def _page(connection: AsyncConnection) -> Any:
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        if _passes(error):
            raise
        return error


def _rows(
    feed: _Feed, stream: bytes, index: list[bytes], payloads: bytes
) -> tuple[list[Row], Position | None]:
    rows: list[Row] = []
    end: Position | None = None
    at = 0
    for entry_id, before, length in zip(index[::3], index[1::3], index[2::3], strict=True):
        payload = payloads[at : at + int(length)]
        at += len(payload)
        end = _position(entry_id)
        try:
            event = _event(feed, end, payload) if payload else None
            rows.append((end, _position(before), event))
        except ValueError as error:
            log.warning(
                "Skipped a foreign entry in %s: %s", Shown(stream), Shown(repr(error), quoted=False)
            )
    return rows, end


def _event(feed: _Feed, position: Position, payload: bytes) -> Event:
    return make_event(feed.channel, position, payload)


def _evaluations(calls: Iterable[tuple[str, tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    # The first time in a batch a script is sent whole, so that Redis has it without a second
    # round trip.
    known: dict[str, str] = {}
    commands: list[tuple[Any, ...]] = []
    for script, (key, *arguments) in calls:
        if script in known:
            commands.append(("EVALSHA", known[script], 1, key, *arguments))
        else:
            known[script] = hashlib.sha1(script.encode()).hexdigest()
            commands.append(("EVAL", script, 1, key, *arguments))
    return commands


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "unix" and parts.path.strip("/") and not parts.path[1:].isdigit():
        raise ValueError(f"the database in a Redis URL is a number, not {parts.path[1:]!r}")
    for name, values in parse_qs(parts.query).items():
        if name in REFUSED:
            raise ValueError(f"the option {name} in a Redis URL is not taken: {REFUSED[name]}")
        if name.startswith("ssl_") and parts.scheme != "rediss":
            raise ValueError(f"the option {name!r:.100} in a Redis URL needs rediss://")
        if name not in OPTIONS and name not in OVERRIDDEN and name not in SSL_OPTIONS:
            known = ", ".join(OPTIONS)
            raise ValueError(
                f"the options in a Redis URL are {known} and redis-py's of TLS, such as"
                f" ssl_ca_certs, not {name!r:.100}"
            )
        if name == "client_name" and not re.fullmatch("[!-~]+", values[-1]):
            raise ValueError(
                "the option client_name in a Redis URL is printable ASCII without spaces,"
                f" not {values[-1]!r:.100}"
            )


def _is_elsewhere(error: BaseException | None) -> bool:
    # Whether the server says that it is not the one to talk to: after a failover it is a replica,
    # or cut off from its replicas, or it starts, or has another password or other rights. A new
    # connection may lead to the right one. Before Redis 7 the word stands within a script's error.
    return isinstance(
        error, (ReadOnlyError, MasterDownError, BusyLoadingError, AuthenticationError)
    ) or (
        isinstance(error, ResponseError)
        and re.search(
            r"(?:^|-)(?:READONLY|MASTERDOWN|NOREPLICAS) |run the 'eval(?:sha)?' command", str(error)
        )
        is not None
    )


def _passes(error: BaseException) -> bool:
    # Whether the error is not of what is under a key: another server may be the right one, or this
    # one be busy with somebody's script or have forgotten ours.
    return (
        _is_elsewhere(error) or isinstance(error, NoScriptError) or str(error).startswith("BUSY ")
    )


def _refused(error: Exception) -> ChannelsError:
    # But for what failed when the event was stored already.
    stored = str(error).startswith("STORED ")
    refusal = _unknown(error) if stored else PublishRefused(f"Redis refused: {error}")
    refusal.__cause__ = error
    return refusal


def _unreachable(reason: object) -> PublishRefused:
    return PublishRefused(f"Redis cannot be reached: {reason}")


def _unknown(reason: object) -> PublishUnknown:
    return PublishUnknown(f"Whether it was published is unknown: {reason}")


def _position(entry_id: bytes) -> Position:
    epoch, _, number = entry_id.partition(b"-")
    return int(epoch), int(number)


def _is_before(position: Position, reached: Position, behind: int) -> bool:
    # Whether an event that arrives had come by what was reached when the feed stood in the epoch
    # ``behind``. Epochs are ordered in time, but for a server whose clock was put back.
    if position[0] == reached[0]:
        return position <= reached
    return behind <= position[0] < reached[0]


def _is_after(position: Position, other: Position) -> bool:
    # Of two epochs nobody knows, but that is no reason to keep an event back.
    return position[0] != other[0] or position > other
