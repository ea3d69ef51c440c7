"""What a subscriber iterates: a queue that is bounded, in events and in bytes."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyramid_asgi_consumers.channels.events import Gap, Item
from pyramid_asgi_consumers.channels.fan_out import FanOut, fan_out_of
from pyramid_asgi_consumers.channels.positions import NEVER_WAS, position_of
from pyramid_asgi_consumers.exceptions import SubscriptionOverflow
from pyramid_asgi_consumers.shown import LOG_INTERVAL, Shown

log = logging.getLogger(__name__)

OVERFLOWS = ("drop_oldest", "close")


class Overflows:
    """Counts what slow subscribers lose, and logs it once a minute."""

    def __init__(self) -> None:
        #: Events lost, or subscriptions closed, since the process began.
        self.total = 0
        self._logged = 0
        self._next = 0.0

    def count(self, channels: tuple[str, ...]) -> None:
        self.total += 1
        now = time.monotonic()
        if now >= self._next:
            log.warning(
                "Slow subscribers lost %d events since this was last logged, one of them of %s",
                self.total - self._logged,
                Shown(", ".join(channels)),
            )
            self._logged = self.total
            self._next = now + LOG_INTERVAL


class Subscription:
    """An asynchronous context manager, and within it the iterator over what arrives.

    It belongs to the event loop and the ``async with`` that entered it. It yields :class:`Event`
    and, where events are missing, :class:`Gap`. Made by :meth:`.Channels.subscribe`.
    """

    __slots__ = (
        "channels",
        "since",
        "presence",
        "_backend",
        "_overflows",
        "_limit",
        "_most_bytes",
        "_left",
        "_closes",
        "_loop",
        "_fan_out",
        "_ended",
        "_error",
        "_ahead",
        "_replay",
        "_missed",
        "_queue",
        "_waiter",
        "_handed",
        "_at_once",
        "_positions",
        "__weakref__",
    )

    def __init__(
        self,
        backend: Any,
        overflows: Overflows,
        channels: tuple[str, ...],
        since: Mapping[str, str],
        max_queue: int,
        max_bytes: int,
        overflow: str,
        presence: bytes | None,
    ) -> None:
        #: The names of the channels, without repeats.
        self.channels = channels
        #: The id of the last event seen, for those channels that are to be replayed.
        self.since = since
        #: Who subscribes, encoded.
        self.presence = presence
        self._backend = backend
        self._overflows = overflows
        self._limit = max_queue
        self._most_bytes = max_bytes
        # How many of the bytes allowed are left.
        self._left = max_bytes
        self._closes = overflow == "close"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fan_out: FanOut
        # Whether nothing comes after the queue, and whether anything comes before it.
        self._ended = True
        self._error: SubscriptionOverflow | None = None
        self._ahead = False
        self._replay: deque[Item] | None = None
        # For each channel how many were dropped, and the id of the last of them.
        self._missed: dict[str, tuple[int | None, str | None]] | None = None
        self._queue: deque[Item] = deque()
        self._waiter: asyncio.Future[None] | None = None
        # What is for who waits, past the queue.
        self._handed: Item | None = None
        self._at_once: Callable[[Item], bool] | None = None
        self._positions = {name: _place(since[name]) for name in channels if name in since}

    @property
    def positions(self) -> dict[str, str]:
        """Where each channel stands: by its name the id of what was yielded last.

        Before that it is where the channel begins: its ``since``, else the newest event when the
        subscription was entered. A subscription with these for ``since`` goes on right there. A
        name is absent only while the backend could not be reached. This is a copy, which stays as
        it is.
        """
        return dict(self._positions)

    def begin(self, channel: str, event_id: str) -> None:
        """Note where a channel begins, unless that is known; called on the subscription's loop."""
        self._positions.setdefault(channel, event_id)

    def hand_on(self, at_once: Callable[[Item], bool] | None) -> None:
        """Have ``at_once`` called with what arrives while somebody waits for it.

        Where it returns True it has dealt with the item; else that is for who waits. It is called
        by whoever delivers, and is not to raise. None has nothing called.
        """
        self._at_once = at_once

    async def __aenter__(self) -> "Subscription":
        if self._loop is not None:
            raise RuntimeError("A subscription is entered once; call subscribe() again")
        self._loop = asyncio.get_running_loop()
        self._fan_out = fan_out_of(self._loop)
        self._ended = False
        try:
            await self._backend.attach(self)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._ended = True
        self._queue.clear()
        self._handed = None
        self._ahead = False
        self._replay = self._missed = None
        self._wake()
        await self._backend.detach(self)

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> Item:
        item: Item
        while True:
            if self._ahead:
                if self._replay:
                    item = self._replay.popleft()
                    break
                if self._missed:
                    channel = next(iter(self._missed))
                    item = Gap(channel, *self._missed.pop(channel))
                    break
                self._ahead = False
            if self._queue:
                item = self._queue.popleft()
                self._left += item.size
                break
            if self._ended:
                if self._error is not None:
                    raise self._error
                if self._loop is None:
                    raise RuntimeError("A subscription is iterated within its `async with`")
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("A subscription is iterated by one task at a time")
            # It is entered, so it has a loop.
            waiter = self._waiter = self._loop.create_future()  # type: ignore[union-attr]
            try:
                await waiter
            except BaseException:
                # The cancellation may have come with an item: who asks next gets it.
                self._take_back()
                raise
            finally:
                self._waiter = None
            handed = self._handed
            if handed is not None:
                self._handed = None
                item = handed
                break
        event_id = item.id
        if event_id is not None:
            self._positions[item.channel] = event_id
        return item

    def replay(self, items: Iterable[Item]) -> None:
        """Put stored items in front of the queue; they count against neither of its bounds.

        What bounds them is the history that the backend keeps.
        """
        if self._replay is None:
            self._replay = deque()
        self._replay.extend(items)
        self._ahead = True
        self._wake()

    def put(self, item: Item) -> None:
        """Hand the item to who waits, or to the queue; called on the subscription's loop."""
        size = item.size
        waiter = self._waiter
        if self._handed is not None:
            # Who is to be served in a later turn finds both in the queue.
            self._take_back()
        elif (
            waiter is not None
            and not self._queue
            and not waiter.done()
            and size <= self._most_bytes
        ):
            self._handed = item
            # Who waits does so on that loop.
            if self._fan_out.has_room(self._loop):  # type: ignore[arg-type]
                self.serve()
            else:
                self._fan_out.serve_later(self)
            return
        left = self._left - size
        if left < 0 or len(self._queue) >= self._limit:
            if self._error is not None:
                return
            if size > self._most_bytes:
                self._overflows.count(self.channels)
                return self.put(Gap(item.channel, 1, item.id))
            if not self._make_room(size):
                return
            left = self._left - size
        self._left = left
        self._queue.append(item)

    def serve(self) -> None:
        """Give who waits what was put."""
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        # What was put later has moved it to the queue.
        item = self._handed
        if item is None or self._at_once is None or not self._at_once(item):
            waiter.set_result(None)
            return
        self._handed = None
        event_id = item.id
        if event_id is not None:
            self._positions[item.channel] = event_id

    def lose_touch(self) -> None:
        """What is published may be missed from now on: a gap follows, if it was."""

    def regain_touch(self) -> None:
        """What is published is not missed any more, and what was missed has been put."""

    def end(self) -> None:
        """Have nothing more come after what waits already."""
        self._ended = True
        self._wake()

    def _take_back(self) -> None:
        # What was handed to who waited, and has not been taken yet, waits as all else.
        item, self._handed = self._handed, None
        if item is not None:
            self._queue.appendleft(item)
            self._left -= item.size

    def _make_room(self, size: int) -> bool:
        if self._closes:
            self._overflows.count(self.channels)
            full = len(self._queue) >= self._limit
            self._error = SubscriptionOverflow(
                self.channels, self._limit, None if full else self._most_bytes
            )
            self._limit = 0
            self._ended = True
            self._queue.clear()
            return False
        while self._left < size or len(self._queue) >= self._limit:
            self._overflows.count(self.channels)
            oldest = self._queue.popleft()
            self._left += oldest.size
            lost = oldest.missed if isinstance(oldest, Gap) else 1
            self._ahead = True
            if self._missed is None:
                self._missed = {}
            before, _ = self._missed.get(oldest.channel, (0, None))
            missed = None if lost is None or before is None else before + lost
            self._missed[oldest.channel] = missed, oldest.id
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _place(since: str) -> str:
    # What cannot be an id comes from a client. It begins with a gap, as a place that never was.
    return NEVER_WAS if position_of(since) is None else since
