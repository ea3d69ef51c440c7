"""All subscriptions of one event loop, and the connection by which they live."""

import asyncio
import logging
import random
import re
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import Connection as AsyncConnection
from redis.exceptions import ResponseError

from pyramid_asgi_consumers.channels.base import Subscription
from pyramid_asgi_consumers.channels.redis.answers import EXPECTED, is_elsewhere, passes
from pyramid_asgi_consumers.channels.redis.commands import BATCH, Command, Commands
from pyramid_asgi_consumers.channels.redis.connections import Connections, traffic_of, within
from pyramid_asgi_consumers.channels.redis.feeds import StreamFeed
from pyramid_asgi_consumers.channels.redis.pages import (
    AHEAD,
    PAGE,
    PAGE_BYTES,
    make_feed_event,
    parse_position,
    parse_rows,
    receive_page,
)
from pyramid_asgi_consumers.channels.redis.scripts import ENTER, LEAVE, READ, ROLE, evaluations
from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

#: Seconds after which the members of a process that was killed are gone.
PRESENCE_EXPIRY = 20
#: Seconds between two signs of life, of this process to Redis and of Redis to it.
BEAT = 6.0
#: Seconds between two attempts to reconnect, at least and at most.
BACKOFF = (0.1, 5.0)


class Hub:
    # All subscriptions of one event loop, from the first one to the last one out.

    def __init__(self, backend: Any, connections: Connections, commands: Commands) -> None:
        self.feeds: dict[bytes, StreamFeed] = {}
        self._backend = backend
        self._connections = connections
        self._commands = commands
        self._token = secrets.token_hex(8).encode()
        self._members: dict[str, Counter[bytes]] = {}
        # When Redis went out of reach, None while it is there.
        self._outage: float | None = None
        # Since when it is in touch on this connection.
        self._in_touch: float | None = None
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
        self._first: dict[StreamFeed, None] = {}
        self._further: dict[StreamFeed, None] = {}
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

    def _attach(self, name: str, subscription: Subscription) -> StreamFeed:
        redis_channel = self._backend.redis_channel(name)
        feed = self.feeds.get(redis_channel)
        if feed is None:
            feed = self.feeds[redis_channel] = StreamFeed(name, self._outage is not None)
            self._change("SUBSCRIBE", redis_channel)
        feed.add(subscription, subscription.since.get(name), self._outage is None)
        self._want(feed)
        return feed

    def _want(self, feed: StreamFeed) -> None:
        if feed.confirmed and not feed.asked and feed.wants_more():
            self._further.pop(feed, None)
            self._first[feed] = None
            self._wanted.set()

    def detach(self, subscription: Subscription) -> list[Command]:
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

    async def answer(self, command: Command) -> Any:
        # None where Redis refused, as it does if foreign data is under a key of ours.
        try:
            return await self._commands.answer(command)
        except PublishRefused as error:
            if not isinstance(error.__cause__, ResponseError) or passes(error.__cause__):
                raise
            log.warning(
                "Skipped what is under %s: %s",
                Shown(command.arguments[0]),
                Shown(error.__cause__),
            )
            return None

    def _enter(self, name: str, members: Iterable[bytes]) -> Command:
        return self._commands.submit(
            ENTER,
            self._backend.members(name),
            PRESENCE_EXPIRY,
            *(self._token + b":" + member for member in members),
        )

    def _leave(self, name: str, member: bytes) -> Command:
        return self._commands.submit(
            LEAVE, self._backend.members(name), self._token + b":" + member
        )

    def _change(self, *command: Any) -> None:
        self._changes.append(command)
        self._changed.set()

    async def _run(self) -> None:
        least, most = BACKOFF
        pause = least
        while True:
            connection = self._backend.make_subscriber()
            self._in_touch = None
            try:
                await within(self._backend.timeout, connection.connect())
                await self._serve(connection)
            except Exception as error:
                self._is_out(error)
            finally:
                await connection.disconnect(nowait=True)
            # Those that are idle may lead to another server than new ones.
            await self._connections.leave_server()
            # What breaks again and again is not made again as quickly each time.
            if self._in_touch is not None and time.monotonic() - self._in_touch >= BEAT:
                pause = least
            pause = min(most, 2 * pause)
            await asyncio.sleep(random.uniform(least, pause))

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
        if self._in_touch is None:
            self._in_touch = time.monotonic()
        if self._outage is not None:
            log.warning(
                "Subscriptions are in touch with Redis again, after %.1f seconds",
                time.monotonic() - self._outage,
            )
            self._outage = None

    async def _serve(self, connection: AsyncConnection) -> None:
        self._begin()
        self._life = await within(self._backend.timeout, _greet(connection))
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
            position = parse_position(event_id)
            event = make_feed_event(feed, position, payload)
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
        asked: deque[StreamFeed] = deque()
        progress = False
        try:
            async with self._connections.take() as connection:
                while asked or self._first or self._further:
                    if len(asked) <= AHEAD // 2:
                        await within(timeout, self._ask(connection, asked), connection)
                    if asked:
                        page = await within(timeout, receive_page(connection), connection)
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

    async def _ask(self, connection: AsyncConnection, asked: deque[StreamFeed]) -> None:
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
            commands = connection.pack_commands(evaluations(calls))
            await connection.send_packed_command(commands, check_health=False)

    def _next(self) -> StreamFeed:
        self._firsts = not self._firsts
        feeds = self._first if self._firsts and self._first or not self._further else self._further
        feed = next(iter(feeds))
        del feeds[feed]
        return feed

    def _has(self, feed: StreamFeed) -> bool:
        return self.feeds.get(self._backend.redis_channel(feed.channel)) is feed

    def _take(self, feed: StreamFeed, page: Any) -> None:
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
        rows, end = parse_rows(feed, stream, index.split(), payloads)
        feed.take_page(parse_position(head) if head else None, rows, end)
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
            before, (arrived, _) = arrived, traffic_of(connection)
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
                    if is_elsewhere(error.__cause__):
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
                if is_elsewhere(error.__cause__):
                    raise
            else:
                if life != self._life or (was_master and role != b"master"):
                    raise ConnectionError(f"the server is {role.decode()} now, in life {life!r}")
                was_master = role == b"master"
            with suppress(asyncio.TimeoutError):
                await within(BEAT, self._commands.elsewhere.wait())


async def _greet(connection: AsyncConnection) -> bytes:
    # Which of the server's lives this is.
    await connection.send_command("INFO", "server", check_health=False)
    found = re.search(rb"run_id:(\w{8})", await connection.read_response())
    return found[1] if found else b""
