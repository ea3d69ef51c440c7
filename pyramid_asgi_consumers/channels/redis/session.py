"""One connection by which the subscriptions of an event loop hear from Redis, and its end.

Five tasks serve it until one of them raises:

- ``_write`` sends SUBSCRIBE, UNSUBSCRIBE and PING, many in one go.
- ``_read`` hands live events to the feeds.
- ``StoredReader.run`` reads what is stored, from when Redis has confirmed a subscription on.
- ``_heartbeat`` shows Redis who is present, and sees that Redis is there.
- ``_watch_role`` sees that the server is still the one to talk to.

What lives longer than a connection is the hub's (``hub.py``).
"""

import asyncio
import logging
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import Connection as AsyncConnection

from pyramid_asgi_consumers.channels.fan_out import fan_out_of
from pyramid_asgi_consumers.channels.redis.answers import is_elsewhere
from pyramid_asgi_consumers.channels.redis.commands import Commands
from pyramid_asgi_consumers.channels.redis.connections import Connections, traffic_of, within
from pyramid_asgi_consumers.channels.redis.entries import parse_message
from pyramid_asgi_consumers.channels.redis.feeds import StreamFeed
from pyramid_asgi_consumers.channels.redis.keys import Keys
from pyramid_asgi_consumers.channels.redis.presence import Presence
from pyramid_asgi_consumers.channels.redis.reader import StoredReader
from pyramid_asgi_consumers.channels.redis.scripts import ROLE
from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

#: Seconds between two signs of life, of this process to Redis and of Redis to it.
BEAT = 6.0


class Session:
    """The subscriptions of ``feeds``, by Redis channel, over one connection.

    ``in_touch()`` is called when something stored was read: by then everything works.
    """

    def __init__(
        self,
        feeds: Mapping[bytes, StreamFeed],
        keys: Keys,
        connections: Connections,
        commands: Commands,
        presence: Presence,
        timeout: float,
        in_touch: Callable[[], None],
    ) -> None:
        self.reader = StoredReader(feeds, keys, connections, timeout, in_touch)
        self._feeds = feeds
        self._keys = keys
        self._commands = commands
        self._presence = presence
        self._timeout = timeout
        # What is to be sent, and how many confirmations of each SUBSCRIBE are to come.
        self._unsent: deque[tuple[Any, ...]] = deque()
        self._sending = asyncio.Event()
        self._unconfirmed: Counter[bytes] = Counter()
        for redis_channel, feed in feeds.items():
            feed.begin()
            self.subscribe(redis_channel)

    def subscribe(self, redis_channel: bytes) -> None:
        """Have Redis send what is published there; the feed is told when it does."""
        self._send("SUBSCRIBE", redis_channel)

    def unsubscribe(self, redis_channel: bytes) -> None:
        """Have Redis send it no more."""
        self._send("UNSUBSCRIBE", redis_channel)

    def _send(self, *command: Any) -> None:
        self._unsent.append(command)
        self._sending.set()

    async def serve(self, connection: AsyncConnection) -> None:
        """Serve over a connection that was just made; raises when it is of no use any more."""
        self.reader.life = await within(self._timeout, _life_of_server(connection))
        duties = (
            self._write(connection),
            self._read(connection),
            self.reader.run(),
            self._heartbeat(connection),
            self._watch_role(),
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
            await self._sending.wait()
            self._sending.clear()
            commands, self._unsent = self._unsent, deque()
            for command in commands:
                if command[0] == "SUBSCRIBE":
                    self._unconfirmed[command[1]] += 1
            await connection.send_packed_command(
                connection.pack_commands(commands), check_health=False
            )

    async def _read(self, connection: AsyncConnection) -> None:
        fan_out = fan_out_of(asyncio.get_running_loop())
        while True:
            reply = await connection.read_response(disconnect_on_error=False)
            if reply[0] == b"message":
                self._receive(reply[1], reply[2])
                # The subscribers' turn: more of a burst may be buffered already.
                await fan_out.turn()
            elif reply[0] == b"subscribe":
                self._confirm(reply[1])

    def _receive(self, redis_channel: bytes, message: bytes) -> None:
        feed = self._feeds.get(redis_channel)
        if feed is None:
            return
        try:
            position, event = parse_message(feed.channel, message)
        except ValueError as error:
            log.warning("Skipped foreign bytes on %s: %s", Shown(redis_channel), Shown(error))
        else:
            feed.receive(position, event)

    def _confirm(self, redis_channel: bytes) -> None:
        # Only the last of several confirmations is that of the feed which is there now.
        self._unconfirmed[redis_channel] -= 1
        if not self._unconfirmed[redis_channel]:
            del self._unconfirmed[redis_channel]
            feed = self._feeds.get(redis_channel)
            if feed is not None:
                feed.confirmed = True
                self.reader.want(feed)

    async def _heartbeat(self, connection: AsyncConnection) -> None:
        arrived = -1
        while True:
            refused = await self._presence.enter_again()
            await asyncio.sleep(BEAT)
            if refused is not None:
                raise refused
            before, (arrived, _) = arrived, traffic_of(connection)
            if arrived == before:
                raise TimeoutError(f"no sign of life within {BEAT:g} seconds")
            self._send("PING")

    async def _watch_role(self) -> None:
        # Behind one address may be another server meanwhile, to which new connections lead. A
        # replica that was one from the beginning is left alone: it has all events, too.
        was_master = False
        while True:
            self._commands.elsewhere.clear()
            try:
                role, life = await self._commands.run(ROLE, self._keys.stream(""))
            except ChannelsError as error:
                # It may be that commands are slow. The heartbeat shows whether Redis is there.
                if is_elsewhere(error.__cause__):
                    raise
            else:
                if life != self.reader.life or (was_master and role != b"master"):
                    raise ConnectionError(f"the server is {role.decode()} now, in life {life!r}")
                was_master = role == b"master"
            with suppress(asyncio.TimeoutError):
                await within(BEAT, self._commands.elsewhere.wait())


async def _life_of_server(connection: AsyncConnection) -> bytes:
    # As the scripts tell it.
    await connection.send_command("INFO", "server", check_health=False)
    found = re.search(rb"run_id:(\w{8})", await connection.read_response())
    return found[1] if found else b""
