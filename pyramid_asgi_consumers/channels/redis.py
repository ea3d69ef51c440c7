"""Channels among any number of processes and machines, through Redis.

Each channel is one stream, which counts and keeps its events, and one Redis channel. On each event
loop all subscriptions share one connection, and all commands another.
"""

import asyncio
import hashlib
import logging
import random
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Coroutine, Iterable
from typing import Any
from urllib.parse import urlsplit

from redis import ConnectionPool
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio.connection import Connection as AsyncConnection
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError, ResponseError
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

log = logging.getLogger(__name__)

# Count, store and publish one event. A server that was restarted may have lost events whose numbers
# it would give out again, so each of its lives has an epoch of its own; the entry names the one
# before it, by which a subscriber sees that nothing was lost. Without a history the entry is empty.
PUBLISH = """
local life = string.sub(string.match(redis.call('INFO', 'server'), 'run_id:(%w+)'), 1, 8)
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local before, epoch, number = '0-0', nil, 0
if newest then
    before = newest[1]
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
redis.call('XADD', KEYS[1], 'MAXLEN', math.max(history, 1), id,
    'life', life, 'before', before, 'data', history > 0 and ARGV[2] or '')
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('PUBLISH', ARGV[1], id .. ' ' .. ARGV[2])
return id
"""

# The newest id, and the entries from ARGV[1] on; all where that is beyond the newest.
READ = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then return {'', {}} end
if ARGV[1] == '' then return {newest[1], {}} end
local entries = redis.call('XRANGE', KEYS[1], ARGV[1], '+')
if #entries == 0 then entries = redis.call('XRANGE', KEYS[1], '-', '+') end
return {newest[1], entries}
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

#: What an outage of Redis raises.
EXPECTED = (ChannelsError, RedisError, OSError, asyncio.TimeoutError)

CLOSED = "the connection was closed"

# How many commands go to Redis in one go.
BATCH = 256


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
        parts = urlsplit(url)
        if parts.scheme != "unix" and parts.path.strip("/") and not parts.path[1:].isdigit():
            raise ValueError(f"the database in a Redis URL is a number, not {parts.path[1:]!r}")
        self._url = url
        self._pool = ConnectionPool.from_url(url, **self._options())
        # Redis numbers its databases, but not its channels.
        self._database = int(self._pool.connection_kwargs.get("db") or 0)
        self._prefix = prefix
        self._subscribers = self._make_async_pool()
        self.make_subscriber()
        self._lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}

    def _options(self) -> dict[str, Any]:
        # Not one retry: a publish that was sent may have been carried out. RESP 2 because Redis's
        # answers are read here.
        return {
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
            "protocol": 2,
        }

    def _make_async_pool(self) -> AsyncConnectionPool:
        # Subscribers read without a timeout, and of commands whole batches are timed.
        options = {**self._options(), "socket_timeout": None}
        return AsyncConnectionPool.from_url(self._url, **options)

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
        try:
            connection = self._pool.get_connection()
        except (RedisError, OSError) as error:
            return [_unreachable(error) for _ in messages]
        results: list[str | ChannelsError] = []
        try:
            calls = [(PUBLISH, self._publish_arguments(*message)) for message in messages]
            connection.send_packed_command(
                connection.pack_commands(_evaluations(calls)), check_health=False
            )
            while len(results) < len(messages):
                try:
                    reply = connection.read_response()
                    results.append(self._published(messages[len(results)][0], reply))
                except (ResponseError, BusyLoadingError) as error:
                    results.append(_refused(error))
        except (RedisError, OSError) as error:
            connection.disconnect()
            results += [_unknown(error) for _ in messages[len(results) :]]
        finally:
            self._pool.release(connection)
        return results

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
            loop.hub = _Hub(self, loop.commands)
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
                await asyncio.wait(left, timeout=self.timeout)
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
                log.warning("Skipped foreign bytes in %r: %s", self.members(channel), error)
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
        with self._lock:
            loop = self._loops.pop(asyncio.get_running_loop(), None)
        if loop is not None:
            if loop.hub is not None:
                loop.hub.task.cancel()
                await asyncio.wait([loop.hub.task])
            await loop.commands.aclose()
        self._pool.disconnect(inuse_connections=False)


class _Loop:
    # What the backend has on one event loop.

    def __init__(self, backend: RedisBackend, pool: AsyncConnectionPool) -> None:
        self.commands = _Commands(pool, backend.timeout)
        self.hub: _Hub | None = None


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

    def __init__(self, pool: AsyncConnectionPool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._waiting: deque[_Command] = deque()
        self._task: asyncio.Task[None] | None = None
        self._shutdown: AsyncGenerator[None, None] | None = None

    async def run(self, script: str, *arguments: Any) -> Any:
        return await self.answer(self.submit(script, *arguments))

    def submit(self, script: str, *arguments: Any) -> _Command:
        command = _Command(script, arguments)
        self._waiting.append(command)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        return command

    async def answer(self, command: _Command) -> Any:
        # A command that was given up before it was sent never is.
        try:
            await asyncio.wait([command.future], timeout=self._timeout)
        except asyncio.CancelledError:
            command.future.cancel()
            raise
        command.give_up(f"no answer within {self._timeout:g} seconds")
        return command.future.result()

    async def _work(self) -> None:
        try:
            if self._shutdown is None:
                self._shutdown = self._until_shutdown()
                await self._shutdown.__anext__()
            while self._waiting:
                count = min(len(self._waiting), BATCH)
                await self._send([self._waiting.popleft() for _ in range(count)])
        finally:
            self._task = None
            while self._waiting:
                self._waiting.popleft().give_up(CLOSED)

    async def _send(self, batch: list[_Command]) -> None:
        reason: object = CLOSED
        replies: list[Any] = []
        try:
            connection = await _within(self._timeout, self._pool.get_connection())
            try:
                await _within(self._timeout, _exchange(connection, batch, replies))
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                await self._pool.release(connection)
        except EXPECTED as error:
            reason = error
        finally:
            # Last of all, so that who goes on finds nothing running.
            for command, reply in zip(batch, replies, strict=False):
                command.settle(reply)
            for command in batch[len(replies) :]:
                command.give_up(reason)

    async def _until_shutdown(self) -> AsyncGenerator[None, None]:
        # An event loop that shuts down finishes its asynchronous generators: nobody else would
        # tell, where no lifespan is run.
        try:
            yield
        finally:
            await self._pool.disconnect()

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._shutdown is not None:
            await self._shutdown.aclose()


async def _exchange(connection: AsyncConnection, batch: list[_Command], replies: list[Any]) -> None:
    batch[:] = [command for command in batch if not command.future.done()]
    for command in batch:
        command.sent = True
    calls = _evaluations((command.script, command.arguments) for command in batch)
    await connection.send_packed_command(connection.pack_commands(calls), check_health=False)
    for _ in batch:
        try:
            replies.append(await connection.read_response())
        except (ResponseError, BusyLoadingError) as error:
            replies.append(_refused(error))


class _Joiner:
    # A subscription that waits for the replay of what came after ``after``. ``held`` came
    # meanwhile; ``reached`` is where the replay ended, which may be ahead of what is live.
    __slots__ = ("after", "held", "reached")

    def __init__(self, after: Position | None, reached: Position | None = None) -> None:
        self.after = after
        self.held: list[Event] = []
        self.reached = reached


class _Feed(Feed):
    # Until it is settled, when it is known where the channel stands, what arrives is held.
    __slots__ = ("held", "joining", "missed", "published", "waiters")

    def __init__(self, channel: str, missed: bool) -> None:
        super().__init__(channel, None)
        self.held: list[tuple[Position, Event]] | None = []
        self.joining: dict[Subscription, _Joiner] = {}
        # Whether it was out of touch before it was ever settled.
        self.missed = missed
        # The newest event that this process published.
        self.published = NOWHERE
        self.waiters: list[asyncio.Future[None]] = []

    def receive(self, position: Position, event: Event) -> None:
        if self.held is not None:
            self.held.append((position, event))
        else:
            self.deliver(position, event)

    def settle(self, head: Position | None, rows: list[Row]) -> None:
        if self.last is None:
            if self.missed:
                self.put(Gap(self.channel, None))
            self.last = head or NOWHERE
        else:
            items, self.last = catch_up(self.channel, self.last, head, rows, again=False)
            for item in items:
                self.put(item)
        held, self.held = self.held, None
        for position, event in held:
            self.deliver(position, event)

    def join(self, subscription: Subscription, head: Position | None, rows: list[Row]) -> None:
        joiner = self.joining[subscription]
        items, reached = catch_up(self.channel, joiner.after, head, rows, again=True)
        for event in joiner.held:
            position = position_of(event.id)
            if _is_after(position, reached):
                gap = gap_between(self.channel, reached, position)
                items += [event] if gap is None else [gap, event]
                reached = position
        subscription.replay(items)
        joiner.reached = reached
        if not _is_after(reached, self.last):
            self._joined(subscription)

    def put(self, item: Item) -> None:
        super().put(item)
        for subscription, joiner in list(self.joining.items()):
            if isinstance(item, Gap):
                if joiner.reached is not None:
                    subscription.put(item)
            elif joiner.reached is None:
                joiner.held.append(item)
            elif _is_after(position_of(item.id), joiner.reached):
                subscription.put(item)
                self._joined(subscription)

    def _joined(self, subscription: Subscription) -> None:
        del self.joining[subscription]
        self.subscribers[subscription] = None

    def waits_for(self, subscription: Subscription) -> bool:
        joiner = self.joining.get(subscription)
        return self.held is not None or (joiner is not None and joiner.reached is None)

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class _Hub:
    # All subscriptions of one event loop, from the first one to the last one out.

    def __init__(self, backend: RedisBackend, commands: _Commands) -> None:
        self.feeds: dict[bytes, _Feed] = {}
        self._backend = backend
        self._commands = commands
        self._token = secrets.token_hex(8).encode()
        self._members: dict[str, Counter[bytes]] = {}
        # When Redis went out of reach, None while it is there.
        self._outage: float | None = None
        self._attempt = 0
        self._begin()
        self.task = asyncio.get_running_loop().create_task(self._run())

    def _begin(self) -> None:
        # What belongs to one connection.
        for feed in self.feeds.values():
            feed.held = []
        self._changes: deque[tuple[Any, ...]] = deque()
        self._changed = asyncio.Event()
        self._unconfirmed: Counter[bytes] = Counter()
        self._unsettled: asyncio.Queue[_Feed] = asyncio.Queue()
        self._heard = True
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
            while self._outage is None and feed.waits_for(subscription):
                feed.waiters.append(asyncio.get_running_loop().create_future())
                await feed.waiters[-1]
        try:
            for command in entered:
                await self.answer(command)
        except ChannelsError as error:
            log.debug("Members will be entered again: %s", error)

    def _attach(self, name: str, subscription: Subscription) -> _Feed:
        redis_channel = self._backend.redis_channel(name)
        feed = self.feeds.get(redis_channel)
        if feed is None:
            feed = self.feeds[redis_channel] = _Feed(name, self._outage is not None)
            self._change("SUBSCRIBE", redis_channel)
        if name not in subscription.since:
            if feed.last is not None and feed.published > feed.last:
                feed.joining[subscription] = _Joiner(None, feed.published)
            else:
                feed.subscribers[subscription] = None
        else:
            feed.joining[subscription] = _Joiner(position_of(subscription.since[name]))
            if feed.held is None:
                self._unsettled.put_nowait(feed)
        return feed

    def detach(self, subscription: Subscription) -> list[asyncio.Future[Any]]:
        # At once, as far as this process goes; what is returned is done when Redis knows who left.
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
            if not isinstance(error.__cause__, ResponseError):
                raise
            log.warning("Skipped what is under %r: %s", command.arguments[0], error.__cause__)
            return None

    def _enter(self, name: str, members: Iterable[bytes]) -> _Command:
        return self._commands.submit(
            ENTER,
            self._backend.members(name),
            PRESENCE_EXPIRY,
            *(self._token + b":" + member for member in members),
        )

    def _leave(self, name: str, member: bytes) -> asyncio.Future[Any]:
        command = self._commands.submit(
            LEAVE, self._backend.members(name), self._token + b":" + member
        )
        return command.future

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
            self._attempt += 1
            least, most = BACKOFF
            await asyncio.sleep(random.uniform(least, min(most, least * 2**self._attempt)))

    def _is_out(self, error: Exception) -> None:
        if self._outage is None:
            self._outage = time.monotonic()
            log.warning(
                "Subscriptions are out of touch with Redis, and try again: %r",
                error,
                exc_info=not isinstance(error, EXPECTED),
            )
        for feed in self.feeds.values():
            feed.missed = True
            feed.wake()

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
        duties = (self._write(connection), self._read(connection), self._settle(), self._beat())
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
            self._heard = True
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
            event = make_event(feed.channel, position, payload)
        except ValueError as error:
            log.warning("Skipped foreign bytes on %r: %s", redis_channel, error)
        else:
            feed.receive(position, event)

    def _confirm(self, redis_channel: bytes) -> None:
        # Only the last of several confirmations is that of the feed which is there now.
        self._unconfirmed[redis_channel] -= 1
        if not self._unconfirmed[redis_channel]:
            del self._unconfirmed[redis_channel]
            if redis_channel in self.feeds:
                self._unsettled.put_nowait(self.feeds[redis_channel])

    async def _settle(self) -> None:
        while True:
            feeds = {await self._unsettled.get(): None}
            while not self._unsettled.empty() and len(feeds) < BATCH:
                feeds[self._unsettled.get_nowait()] = None
            reads = []
            for feed in feeds:
                if feed.held is not None:
                    reads.append((feed, self._ask(feed, feed.last, "")))
            for feed, command in reads:
                feed.settle(*self._stored(feed, await self.answer(command)))
            joins = []
            for feed in feeds:
                for subscription, joiner in feed.joining.items():
                    if joiner.reached is None:
                        joins.append((feed, subscription, self._ask(feed, joiner.after, "-")))
            for feed, subscription, command in joins:
                stored = self._stored(feed, await self.answer(command))
                if subscription in feed.joining:
                    feed.join(subscription, *stored)
            for feed in feeds:
                feed.wake()
            self._is_back()

    def _ask(self, feed: _Feed, after: Position | None, otherwise: str) -> _Command:
        start = otherwise if after is None else f"{after[0]}-{after[1]}"
        return self._commands.submit(READ, self._backend.stream(feed.channel), start)

    def _stored(self, feed: _Feed, reply: Any) -> tuple[Position | None, list[Row]]:
        head, entries = reply or (b"", [])
        rows: list[Row] = []
        for entry_id, fields in entries:
            try:
                stored = dict(zip(fields[::2], fields[1::2], strict=True))
                position, payload = _position(entry_id), stored[b"data"]
                event = make_event(feed.channel, position, payload) if payload else None
                rows.append((position, _position(stored[b"before"]), event))
            except (KeyError, ValueError) as error:
                log.warning(
                    "Skipped a foreign entry in %r: %r", self._backend.stream(feed.channel), error
                )
        return _position(head) if head else None, rows

    async def _beat(self) -> None:
        while True:
            names = list(self._members)
            for start in range(0, len(names), BATCH):
                entered = [
                    self._enter(name, self._members[name])
                    for name in names[start : start + BATCH]
                    if name in self._members
                ]
                for command in entered:
                    await self.answer(command)
            await asyncio.sleep(BEAT)
            if not self._heard:
                raise TimeoutError(f"no sign of life within {BEAT:g} seconds")
            self._heard = False
            self._change("PING")


def _note(future: asyncio.Future[Any]) -> None:
    # Who asked may have been cancelled meanwhile, and never hear of the failure.
    if not future.cancelled() and future.exception() is not None:
        log.debug("A command failed: %s", future.exception())


async def _within(seconds: float, coroutine: Coroutine[Any, Any, Any]) -> Any:
    # asyncio.wait_for of Python 3.11 and before loses a cancellation that comes with the result.
    task = asyncio.ensure_future(coroutine)
    try:
        await asyncio.wait([task], timeout=seconds)
        if not task.done():
            raise asyncio.TimeoutError(f"no answer within {seconds:g} seconds")
        return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


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


def _refused(error: Exception) -> PublishRefused:
    refusal = PublishRefused(f"Redis refused: {error}")
    refusal.__cause__ = error
    return refusal


def _unreachable(reason: object) -> PublishRefused:
    return PublishRefused(f"Redis cannot be reached: {reason}")


def _unknown(reason: object) -> PublishUnknown:
    return PublishUnknown(f"Whether it was published is unknown: {reason}")


def _position(entry_id: bytes) -> Position:
    epoch, _, number = entry_id.partition(b"-")
    return int(epoch), int(number)


def _is_after(position: Position, other: Position) -> bool:
    # Of two epochs nobody knows, but that is no reason to keep an event back.
    return position[0] != other[0] or position > other
