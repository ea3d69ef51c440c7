"""Channels within one process."""

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import Any

from zope.interface import implementer

from pyramid_asgi_consumers.channels.base import (
    NOWHERE,
    Event,
    Feed,
    Position,
    Row,
    Subscription,
    catch_up,
    decode,
    make_event,
    position_of,
)
from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.interfaces import IChannelsBackend

# What waits for a loop that other threads publish to while it does not run; beyond, a gap.
INBOX = 100_000


class _Channel:
    __slots__ = ("position", "rows", "feeds", "members", "touched")

    def __init__(self, epoch: int, history: int) -> None:
        self.position: Position = (epoch, 0)
        self.rows: deque[Row] | None = deque(maxlen=history) if history else None
        self.feeds: dict[asyncio.AbstractEventLoop, Feed] = {}
        self.members: Counter[bytes] = Counter()
        self.touched = 0.0


class _Inbox:
    __slots__ = ("feeds", "items", "scheduled")

    def __init__(self) -> None:
        self.feeds = 0
        self.items: deque[tuple[Feed, Position, Event]] = deque(maxlen=INBOX)
        self.scheduled = False


@implementer(IChannelsBackend)
class MemoryBackend:
    """The backend ``memory://``.

    ``history`` is how many events of each channel are kept; ``expiry`` the seconds after which a
    channel that nobody uses is forgotten.
    """

    def __init__(self, history: int = 0, expiry: float = 86400) -> None:
        self.history = history
        self.expiry = expiry
        self._lock = threading.Lock()
        # In the order in which they were last used.
        self._channels: OrderedDict[str, _Channel] = OrderedDict()
        self._inboxes: dict[asyncio.AbstractEventLoop, _Inbox] = {}
        self._epoch = 0

    def publish_many(self, messages: Iterable[tuple[str, bytes]]) -> list[str | ChannelsError]:
        return [self._publish(name, payload, None) for name, payload in messages]

    async def publish(self, channel: str, payload: bytes) -> str:
        event_id = self._publish(channel, payload, asyncio.get_running_loop())
        # A publisher that awaits nothing else must leave its subscribers their turn.
        await asyncio.sleep(0)
        return event_id

    def _publish(self, name: str, payload: bytes, running: asyncio.AbstractEventLoop | None) -> str:
        with self._lock:
            channel = self._use(name)
            before = channel.position
            position = channel.position = (before[0], before[1] + 1)
            event = make_event(name, position, payload)
            if channel.rows is not None:
                channel.rows.append((position, before if before[1] else NOWHERE, event))
            for loop, feed in list(channel.feeds.items()):
                inbox = self._inboxes[loop]
                inbox.items.append((feed, position, event))
                if loop is not running and not inbox.scheduled:
                    inbox.scheduled = True
                    try:
                        loop.call_soon_threadsafe(_drain, inbox)
                    except RuntimeError:
                        self._forget(loop)
        if running in self._inboxes:
            _drain(self._inboxes[running])
        return event.id

    def _use(self, name: str) -> _Channel:
        # The channel, made if need be; the one that was unused for longest may go.
        now = time.monotonic()
        channel = self._channels.get(name)
        if channel is None:
            self._epoch = max(self._epoch + 1, time.time_ns() // 1000)
            channel = self._channels[name] = _Channel(self._epoch, self.history)
        channel.touched = now
        self._channels.move_to_end(name)
        for oldest in _first(self._channels, 2):
            unused = self._channels[oldest]
            if unused.touched + self.expiry > now:
                break
            if unused.feeds:
                unused.touched = now
                self._channels.move_to_end(oldest)
            else:
                del self._channels[oldest]
        return channel

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        # The loop was closed with subscriptions alive.
        self._inboxes.pop(loop, None)
        for channel in self._channels.values():
            feed = channel.feeds.pop(loop, None)
            for subscription in feed.subscribers if feed is not None else ():
                _leave(channel, subscription)

    async def attach(self, subscription: Subscription) -> None:
        loop = asyncio.get_running_loop()
        with self._lock:
            for closed in [found for found in self._inboxes if found.is_closed()]:
                self._forget(closed)
            inbox = self._inboxes.setdefault(loop, _Inbox())
            # What was published before is not for the newcomer.
            _drain(inbox)
            for name in subscription.channels:
                channel = self._use(name)
                feed = channel.feeds.get(loop)
                if feed is None:
                    feed = channel.feeds[loop] = Feed(name, channel.position)
                    inbox.feeds += 1
                feed.subscribers[subscription] = None
                if subscription.presence is not None:
                    channel.members[subscription.presence] += 1
                if name in subscription.since:
                    subscription.replay(self._replayed(name, channel, subscription.since[name]))

    def _replayed(self, name: str, channel: _Channel, since: str) -> list[Any]:
        head = channel.position if channel.position[1] else None
        return catch_up(name, position_of(since), head, channel.rows or (), again=True)[0]

    async def detach(self, subscription: Subscription) -> None:
        loop = asyncio.get_running_loop()
        with self._lock:
            for name in subscription.channels:
                channel = self._channels.get(name)
                feed = channel.feeds.get(loop) if channel is not None else None
                if feed is None or subscription not in feed.subscribers:
                    continue
                del feed.subscribers[subscription]
                _leave(channel, subscription)
                if not feed.subscribers:
                    del channel.feeds[loop]
                    self._inboxes[loop].feeds -= 1
            if loop in self._inboxes and not self._inboxes[loop].feeds:
                del self._inboxes[loop]

    async def present(self, channel: str) -> list[Any]:
        with self._lock:
            found = self._channels.get(channel)
            members = sorted(found.members) if found is not None else []
        return [decode(member) for member in members]

    async def aclose(self) -> None:
        """There is nothing to close."""


def _drain(inbox: _Inbox) -> None:
    # On the inbox's own loop, which alone takes from it.
    inbox.scheduled = False
    while inbox.items:
        feed, position, event = inbox.items.popleft()
        feed.deliver(position, event)


def _leave(channel: _Channel, subscription: Subscription) -> None:
    if subscription.presence is not None:
        channel.members[subscription.presence] -= 1
        if not channel.members[subscription.presence]:
            del channel.members[subscription.presence]


def _first(channels: Iterable[str], count: int) -> Iterable[str]:
    return [name for name, _ in zip(channels, range(count), strict=False)]
