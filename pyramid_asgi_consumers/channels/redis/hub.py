"""All subscriptions of one event loop, from the first one in to the last one out.

The rules:

- All subscriptions share one connection. When it breaks, the hub makes another one, again and
  again, and each feed goes on from where it stood (``session.py``, ``feeds.py``).
- A subscription is entered at once as far as this process goes. Then it waits until it is known
  where its feeds stand, so that nothing that is published from there on can be missed. While Redis
  is out of reach nobody waits: what is missed by then is a gap.
- Whoever leaves is left out at once, and Redis hears of it later.
- Everything here runs on the event loop. A thread that publishes touches only ``feed.published``,
  under the backend's lock.
"""

import asyncio
import logging
import random
import time

from pyramid_asgi_consumers.channels.redis.answers import EXPECTED
from pyramid_asgi_consumers.channels.redis.commands import Command, Commands
from pyramid_asgi_consumers.channels.redis.connections import Connections, within
from pyramid_asgi_consumers.channels.redis.feeds import StreamFeed
from pyramid_asgi_consumers.channels.redis.keys import Keys
from pyramid_asgi_consumers.channels.redis.presence import Presence
from pyramid_asgi_consumers.channels.redis.session import BEAT, Session
from pyramid_asgi_consumers.channels.subscriptions import Subscription
from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

#: Seconds between two attempts to reconnect, at least and at most.
BACKOFF = (0.1, 5.0)


class Hub:
    """The subscriptions of the running event loop; ``task`` serves them until it is cancelled."""

    def __init__(
        self,
        keys: Keys,
        connections: Connections,
        commands: Commands,
        timeout: float,
        expiry: float,
    ) -> None:
        #: The feeds that somebody subscribes to, by Redis channel.
        self.feeds: dict[bytes, StreamFeed] = {}
        self._keys = keys
        self._connections = connections
        self._commands = commands
        self._timeout = timeout
        self._expiry = expiry
        self._presence = Presence(keys, commands)
        # When Redis went out of reach, None while it is there.
        self._outage: float | None = None
        # Since when it is in touch over this connection.
        self._in_touch: float | None = None
        self._closed = False
        self._session = self._make_session()
        self.task = asyncio.get_running_loop().create_task(self._run())

    def _make_session(self) -> Session:
        return Session(
            self.feeds,
            self._keys,
            self._connections,
            self._commands,
            self._presence,
            self._timeout,
            self._regain_touch,
        )

    async def attach(self, subscription: Subscription) -> None:
        """Enter a subscription; raise ChannelsError where the hub is closed meanwhile."""
        feeds: list[StreamFeed] = []
        entered: list[Command] = []
        for name in subscription.channels:
            feeds.append(self._attach(name, subscription))
            if subscription.presence is not None:
                command = self._presence.enter(name, subscription.presence)
                if command is not None:
                    entered.append(command)
        for feed in feeds:
            while not self._closed and self._outage is None and feed.waits_for(subscription):
                feed.waiters.append(asyncio.get_running_loop().create_future())
                await feed.waiters[-1]
        await self._presence.entered(entered)
        if self._closed:
            raise ChannelsError("The channels were closed while a subscription was entered")

    def _attach(self, name: str, subscription: Subscription) -> StreamFeed:
        redis_channel = self._keys.redis_channel(name)
        feed = self.feeds.get(redis_channel)
        if feed is None:
            feed = StreamFeed(name, self._outage is not None, self._expiry)
            self.feeds[redis_channel] = feed
            self._session.subscribe(redis_channel)
        feed.add(subscription, subscription.since.get(name), self._outage is None)
        self._session.reader.want(feed)
        return feed

    def detach(self, subscription: Subscription) -> list[Command]:
        """Leave a subscription out; return the commands by which Redis hears who is gone."""
        left: list[Command] = []
        for name in subscription.channels:
            redis_channel = self._keys.redis_channel(name)
            feed = self.feeds.get(redis_channel)
            if feed is None or not feed.remove(subscription):
                continue
            if not feed.subscribers and not feed.joining:
                del self.feeds[redis_channel]
                self._session.unsubscribe(redis_channel)
            if subscription.presence is not None:
                command = self._presence.leave(name, subscription.presence)
                if command is not None:
                    left.append(command)
        return left

    def close(self) -> None:
        """End all subscriptions, and those that are being entered."""
        self._closed = True
        self.task.cancel()
        for feed in self.feeds.values():
            for subscription in (*feed.subscribers, *feed.joining):
                subscription.end()
            feed.wake()

    async def _run(self) -> None:
        least, most = BACKOFF
        pause = least
        while True:
            connection = self._connections.make()
            self._in_touch = None
            try:
                await within(self._timeout, connection.connect())
                self._session = self._make_session()
                await self._session.serve(connection)
            except Exception as error:
                self._lose_touch(error)
            finally:
                await connection.disconnect(nowait=True)
            # Those that are idle may lead to another server than new ones.
            await self._connections.leave_server()
            # What breaks again and again is not made again as quickly each time.
            if self._in_touch is not None and time.monotonic() - self._in_touch >= BEAT:
                pause = least
            pause = min(most, 2 * pause)
            await asyncio.sleep(random.uniform(least, pause))

    def _lose_touch(self, error: Exception) -> None:
        if self._outage is None:
            self._outage = time.monotonic()
            log.warning(
                "Subscriptions are out of touch with Redis, and try again: %s",
                Shown(error),
                exc_info=not isinstance(error, EXPECTED),
            )
        for feed in self.feeds.values():
            feed.lose_touch()

    def _regain_touch(self) -> None:
        if self._in_touch is None:
            self._in_touch = time.monotonic()
        if self._outage is not None:
            log.warning(
                "Subscriptions are in touch with Redis again, after %.1f seconds",
                time.monotonic() - self._outage,
            )
            self._outage = None
