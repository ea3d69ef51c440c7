"""The backend ``memory://``: one process, any number of threads and event loops."""

import asyncio
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from zope.interface import implementer

from pyramid_asgi_consumers.channels.events import Event, Item, decode, make_event
from pyramid_asgi_consumers.channels.fan_out import fan_out_of
from pyramid_asgi_consumers.channels.feeds import Feed, catch_up
from pyramid_asgi_consumers.channels.forks import at_fork
from pyramid_asgi_consumers.channels.positions import Position, make_id, position_of
from pyramid_asgi_consumers.channels.subscriptions import Subscription
from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.interfaces import IChannelsBackend

# What waits for a loop that other threads publish to while it does not run, in events and in bytes;
# beyond, a gap.
INBOX = 100_000
INBOX_BYTES = 64 * 1024 * 1024

# How many channels that nobody subscribes to are remembered.
IDLE = 100_000

# How many bytes the events that are stored may take, of all channels, and what each one counts
# besides its own.
STORED = 256 * 1024 * 1024
ROW = 500

# How many parts the names of channels are divided into, each with an epoch of its own.
PARTS = 4096


# A ``Row`` whose event is kept.
_Stored = tuple[Position, Position, Event]


class _Channel:
    __slots__ = ("position", "rows", "feeds", "members", "touched")

    def __init__(self, start: Position) -> None:
        self.position = start
        self.rows: deque[_Stored] | tuple[()] = ()
        self.feeds: dict[asyncio.AbstractEventLoop, Feed] = {}
        self.members: Counter[bytes] | None = None
        self.touched = 0.0


class _Inbox:
    # What was published and is not yet delivered on one event loop; used under the backend's lock.
    __slots__ = ("feeds", "items", "size", "lost", "scheduled", "delivering")

    def __init__(self) -> None:
        self.feeds = 0
        self.items: deque[tuple[Feed, Position, Event]] = deque()
        self.size = 0
        self.lost: dict[Feed, Position] = {}
        # Whether a call of the loop is under way, and whether what was taken is being delivered.
        self.scheduled = False
        self.delivering = False

    def put(self, feed: Feed, position: Position, event: Event) -> None:
        self.items.append((feed, position, event))
        self.size += event.size
        while len(self.items) > INBOX or (self.size > INBOX_BYTES and len(self.items) > 1):
            oldest, position, event = self.items.popleft()
            self.size -= event.size
            self.lost[oldest] = position

    def take(self) -> "_Taken":
        taken = self.lost, list(self.items)
        self.lost = {}
        self.items.clear()
        self.size = 0
        self.scheduled = False
        return taken


_Taken = tuple[dict[Feed, Position], list[tuple[Feed, Position, Event]]]


@implementer(IChannelsBackend)
class MemoryBackend:
    """The backend ``memory://``.

    ``history`` is how many events of each channel are kept; ``expiry`` the seconds after which a
    channel that nobody uses is forgotten.

    Names may come from clients, so what they make grow has bounds. A channel that nobody published
    on exists while somebody subscribes to it. One that was published on is remembered with its
    position and its history for ``expiry`` seconds after its last event and its last subscriber;
    of more than 100,000 without a subscriber, the one that was unused for longest is forgotten.
    The stored events of all channels take 256 MiB at most, with 500 bytes for each; beyond that,
    the oldest of the channel go that was not published on for longest, which its subscribers see
    as a gap.

    What a finalizer, which the garbage collector may run anywhere, or the handler of a signal
    publishes while it interrupts a use of the backend in its own thread, is published as soon as
    that is done. It has no id yet: the empty text is returned for it. A process that forks keeps
    what is stored; subscriptions are the parent's.

    No id is given out twice, and none stands for nothing. All channels begin at one epoch, that of
    the backend, with the number 0: so where a channel stands that nobody published on need not be
    remembered. A channel that was published on and is forgotten begins anew in a later epoch, so
    that whoever knows an id from before gets a gap. Of the channels that nobody has published on,
    one in 4,096 gets a gap, too: what was forgotten is remembered for groups of names only.
    """

    def __init__(self, history: int = 0, expiry: float = 86400) -> None:
        self.history = history
        self.expiry = expiry
        #: What is called with the words of :class:`.Disconnects`.
        self.listeners: list[Any] = []
        # Entered again by what interrupts its owner, which then finds ``_entered``: see _publish.
        self._lock = threading.RLock()
        self._entered = False
        self._deferred: deque[tuple[str, bytes]] = deque()
        # Inboxes whose loops are to be told when the lock is free: whatever logs may publish.
        self._wakes: deque[tuple[asyncio.AbstractEventLoop, _Inbox]] = deque()
        self._channels: dict[str, _Channel] = {}
        # Those without a subscriber, in the order in which they were last used, and those with
        # events that are stored, in the order of the last.
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._storing: OrderedDict[str, None] = OrderedDict()
        self._stored = 0
        self._inboxes: dict[asyncio.AbstractEventLoop, _Inbox] = {}
        self._epoch = time.time_ns() // 1000
        # How many channels of each part were forgotten.
        self._forgotten: Counter[int] = Counter()
        at_fork(self)

    def publish_many(self, messages: Iterable[tuple[str, bytes]]) -> list[str | ChannelsError]:
        return [self._publish(name, payload, None) for name, payload in messages]

    async def publish(self, channel: str, payload: bytes) -> str:
        loop = asyncio.get_running_loop()
        event_id = self._publish(channel, payload, loop)
        # A publisher that awaits nothing else must leave its subscribers their turn.
        await fan_out_of(loop).turn()
        return event_id

    def _publish(self, name: str, payload: bytes, running: asyncio.AbstractEventLoop | None) -> str:
        taken = inbox = None
        with self._lock:
            if self._entered:
                # This interrupts the lock's owner, which does it when it has finished.
                self._deferred.append((name, payload))
                return ""
            self._entered = True
            try:
                # What was deferred earlier, where this comes before the owner has seen it.
                while self._deferred:
                    self._put(*self._deferred.popleft(), None)
                event_id = self._put(name, payload, running)
                if running in self._inboxes:
                    inbox = self._inboxes[running]
                    if not inbox.delivering:
                        taken = inbox.take()
            finally:
                self._entered = False
                if self._deferred:
                    self._put_deferred()
        if self._wakes:
            self._wake()
        if inbox is not None and taken is not None:
            _deliver(inbox, taken)
        return event_id

    def _put(self, name: str, payload: bytes, running: asyncio.AbstractEventLoop | None) -> str:
        channel = self._channels.get(name) or _Channel(self._start(name))
        before = channel.position
        position = (before[0], before[1] + 1)
        event = make_event(name, position, payload)
        self._channels[name] = channel
        channel.position = position
        if self.history:
            self._store(name, channel, (position, before, event))
        for loop, feed in channel.feeds.items():
            inbox = self._inboxes[loop]
            inbox.put(feed, position, event)
            if not inbox.scheduled and (loop is not running or inbox.delivering):
                inbox.scheduled = True
                self._wakes.append((loop, inbox))
        self._released(name, channel)
        return event.id

    def _put_deferred(self) -> None:
        # By the lock's owner. What interrupts this defers its own, or finds all done.
        while self._deferred:
            self._entered = True
            try:
                while self._deferred:
                    self._put(*self._deferred.popleft(), None)
            finally:
                self._entered = False

    @contextmanager
    def _entering(self, only_looks: bool = False) -> Iterator[None]:
        with self._lock:
            if self._entered and only_looks:
                # This interrupts the lock's owner: nothing changes meanwhile.
                yield
                return
            if self._entered:
                raise RuntimeError(
                    "memory://: what interrupts a use of the backend in its own thread, such as a"
                    " finalizer, can publish, but not subscribe"
                )
            self._entered = True
            try:
                yield
            finally:
                self._entered = False
                if self._deferred:
                    self._put_deferred()
        if self._wakes:
            self._wake()

    def _wake(self) -> None:
        # Without the lock: a loop may log.
        while self._wakes:
            try:
                loop, inbox = self._wakes.popleft()
            except IndexError:
                # Another thread was quicker.
                return
            try:
                loop.call_soon_threadsafe(self._drain, inbox)
            except RuntimeError:
                with self._entering():
                    self._forget_loop(loop)

    def _start(self, name: str) -> Position:
        return self._epoch + self._forgotten[hash(name) % PARTS], 0

    def _store(self, name: str, channel: _Channel, row: _Stored) -> None:
        rows = channel.rows = channel.rows or deque()
        if len(rows) == self.history:
            self._stored -= _cost(rows.popleft())
        rows.append(row)
        self._stored += _cost(row)
        self._storing[name] = None
        self._storing.move_to_end(name)
        while self._stored > STORED:
            oldest = next(iter(self._storing))
            stored = cast(deque[_Stored], self._channels[oldest].rows)
            self._stored -= _cost(stored.popleft())
            if not stored:
                del self._storing[oldest]

    def _released(self, name: str, channel: _Channel) -> None:
        # Who has used the channel is done; now, or before long, it may go.
        now = time.monotonic()
        if not channel.feeds:
            if channel.position[1]:
                channel.touched = now
                self._idle[name] = None
                self._idle.move_to_end(name)
            else:
                del self._channels[name]
        for oldest in _first(self._idle, 2):
            if len(self._idle) <= IDLE and self._channels[oldest].touched + self.expiry > now:
                break
            self._forget(oldest)

    def _forget(self, name: str) -> None:
        del self._idle[name]
        self._storing.pop(name, None)
        self._stored -= sum(_cost(row) for row in self._channels.pop(name).rows)
        self._forgotten[hash(name) % PARTS] += 1

    def _forget_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        # The loop was closed with subscriptions alive.
        self._inboxes.pop(loop, None)
        for name, channel in list(self._channels.items()):
            feed = channel.feeds.pop(loop, None)
            if feed is not None:
                for subscription in feed.subscribers:
                    _leave(channel, subscription)
                self._released(name, channel)

    def _drain(self, inbox: _Inbox) -> None:
        with self._entering():
            taken = inbox.take()
        _deliver(inbox, taken)

    async def attach(self, subscription: Subscription) -> None:
        loop = asyncio.get_running_loop()
        feeds: list[Feed] = []
        replayed: list[Item] = []
        with self._entering():
            for closed in [found for found in self._inboxes if found.is_closed()]:
                self._forget_loop(closed)
            inbox = self._inboxes.setdefault(loop, _Inbox())
            taken = inbox.take()
            for name in subscription.channels:
                channel = self._channels.get(name)
                if channel is None:
                    channel = self._channels[name] = _Channel(self._start(name))
                self._idle.pop(name, None)
                feed = channel.feeds.get(loop)
                if feed is None:
                    feed = channel.feeds[loop] = Feed(name, channel.position)
                    inbox.feeds += 1
                feeds.append(feed)
                if subscription.presence is not None:
                    channel.members = channel.members or Counter()
                    channel.members[subscription.presence] += 1
                if name not in subscription.since:
                    subscription.begin(name, make_id(channel.position))
                else:
                    replayed += _replayed(name, channel, subscription.since[name])
        try:
            # What was published before is not for the newcomer.
            _deliver(inbox, taken)
        finally:
            for feed in feeds:
                feed.subscribers[subscription] = None
        if replayed:
            subscription.replay(replayed)

    async def detach(self, subscription: Subscription) -> None:
        loop = asyncio.get_running_loop()
        with self._entering():
            for name in subscription.channels:
                channel = self._channels.get(name)
                feed = None if channel is None else channel.feeds.get(loop)
                if channel is None or feed is None or subscription not in feed.subscribers:
                    continue
                del feed.subscribers[subscription]
                _leave(channel, subscription)
                if not feed.subscribers:
                    del channel.feeds[loop]
                    self._inboxes[loop].feeds -= 1
                    self._released(name, channel)
            if loop in self._inboxes and not self._inboxes[loop].feeds:
                del self._inboxes[loop]

    def position_now(self, channel: str) -> str:
        with self._entering(only_looks=True):
            found = self._channels.get(channel)
            return make_id(self._start(channel) if found is None else found.position)

    async def position(self, channel: str) -> str:
        return self.position_now(channel)

    def present_now(self, channel: str) -> list[Any]:
        with self._entering(only_looks=True):
            found = self._channels.get(channel)
            members = sorted(found.members or ()) if found is not None else []
        return [decode(member) for member in members]

    async def present(self, channel: str) -> list[Any]:
        return self.present_now(channel)

    async def aclose(self) -> None:
        """There is nothing to close."""

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        # Unless it is the lock's owner that was interrupted and has forked.
        if in_child and not self._entered:
            with self._entering():
                for loop in list(self._inboxes):
                    self._forget_loop(loop)
        self._lock.release()


def _deliver(inbox: _Inbox, taken: _Taken) -> None:
    # On the loop that it was taken for. What a handler publishes of what is logged comes later.
    lost, items = taken
    inbox.delivering = True
    try:
        for feed, position in lost.items():
            feed.miss(position)
        for feed, position, event in items:
            feed.deliver(position, event)
    finally:
        inbox.delivering = False


def _replayed(name: str, channel: _Channel, since: str) -> list[Item]:
    return catch_up(name, position_of(since), channel.position, channel.rows, again=True)[0]


def _cost(row: _Stored) -> int:
    return row[2].size + ROW


def _leave(channel: _Channel, subscription: Subscription) -> None:
    members = channel.members
    if subscription.presence is not None and members is not None:
        members[subscription.presence] -= 1
        if not members[subscription.presence]:
            del members[subscription.presence]


def _first(channels: Iterable[str], count: int) -> Iterable[str]:
    return [name for name, _ in zip(channels, range(count), strict=False)]
