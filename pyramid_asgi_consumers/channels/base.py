"""What every backend shares: events and gaps, their encoding, feeds and subscriptions."""

import asyncio
import json
import logging
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, NoReturn

from pyramid_asgi_consumers.channels.forks import at_fork
from pyramid_asgi_consumers.exceptions import InvalidEvent, SubscriptionOverflow
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

#: Where an event stands in its channel: an epoch, which begins anew where data was lost, and a
#: number that counts from 1 within it.
Position = tuple[int, int]

#: Before the first event of a channel.
NOWHERE: Position = (0, 0)

MOST_CHARACTERS = 200
OVERFLOWS = ("drop_oldest", "close")
LOG_INTERVAL = 60.0

#: How many bytes of JSON may stay parsed in the events that wait or are stored, and what each event
#: counts besides its own.
MOST_PARSED = 4 * 1024 * 1024
PARSED = 200


class _Parsed:
    # What ``Event.data`` is: the event's text, parsed when first asked for and then kept in its
    # ``__dict__``. The oldest events lose it again, since it may take 25 times the memory of the
    # text, wherever an event waits or is stored. Which they are is remembered after their end, too,
    # so each has a cost.

    def __init__(self) -> None:
        # Entered again by a finalizer that interrupts its owner: what that asks for is not kept.
        self._lock = threading.RLock()
        self._entered = False
        self._events: deque[tuple[weakref.ref[Event], int]] = deque()
        self._size = 0

    def __get__(self, event: "Event | None", owner: type) -> Any:
        if event is None:
            return self
        try:
            data = json.loads(event.json)  # type: ignore[arg-type]  # bytes are never parsed
        except (ValueError, RecursionError) as error:
            raise InvalidEvent(
                f"The event {event.id} of the channel {Shown(event.channel)} is not JSON:"
                f" {Shown(error)}"
            ) from error
        with self._lock:
            if self._entered:
                return data
            self._entered = True
            try:
                kept = event.__dict__.setdefault("data", data)
                if kept is data:
                    self._keep(event)
            finally:
                self._entered = False
        return kept

    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self, in_child: bool) -> None:
        self._lock.release()

    def _keep(self, event: "Event") -> None:
        size = event.size + PARSED
        self._events.append((weakref.ref(event), size))
        self._size += size
        while self._size > MOST_PARSED and len(self._events) > 1:
            reference, size = self._events.popleft()
            self._size -= size
            oldest = reference()
            if oldest is not None:
                del oldest.__dict__["data"]


class Event:
    """What was published.

    ``channel`` is its name; ``id`` is opaque and, compared as text, ordered within the channel;
    ``data`` is what was published, shared by all subscribers of the process, so not to be changed;
    ``json`` is the same as JSON text, None where it is bytes; ``size`` is how many bytes those are,
    or that text as UTF-8.

    An event waits as text, and is parsed when its ``data`` is first asked for. The newest 4 MiB of
    text, counting 200 bytes for each event, stay parsed; an older event is parsed once more if it
    is asked again. ``data`` raises :class:`.InvalidEvent` for a text that does not parse, which
    channels never publish.
    """

    __slots__ = ("channel", "id", "json", "size", "__dict__", "__weakref__")
    __match_args__ = ("channel", "id", "data", "json")

    channel: str
    id: str
    data: Any = _Parsed()
    json: str | None
    size: int

    def __init__(self, channel: str, id: str, data: Any, json: str | None) -> None:
        if json is None and not isinstance(data, bytes):
            raise TypeError(f"Event: without json, data must be bytes, not {type(data).__name__}")
        _fill(self, channel, id, json, len(data if json is None else json.encode()))
        self.__dict__["data"] = data

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return (self.channel, self.id, self.json) == (other.channel, other.id, other.json) and (
            self.json is not None or self.data == other.data
        )

    def __hash__(self) -> int:
        return hash((self.channel, self.id))

    def __reduce__(self) -> Any:
        # Copies and pickles are parsed anew when they are asked.
        content = self.data if self.json is None else None
        return _copied, (type(self), self.channel, self.id, self.json, self.size, content)

    def __repr__(self) -> str:
        content = f"data={self.data!r}" if self.json is None else f"json={self.json!r}"
        return f"Event(channel={self.channel!r}, id={self.id!r}, {content})"


at_fork(Event.__dict__["data"])

# Past what keeps an event from being changed.
_set = object.__setattr__


def _fill(event: Event, channel: str, event_id: str, text: str | None, size: int) -> None:
    _set(event, "channel", channel)
    _set(event, "id", event_id)
    _set(event, "json", text)
    _set(event, "size", size)


def _copied(
    kind: type[Event], channel: str, event_id: str, text: str | None, size: int, content: Any
) -> Event:
    event: Event = kind.__new__(kind)
    _fill(event, channel, event_id, text, size)
    if text is None:
        event.__dict__["data"] = content
    return event


@dataclass(frozen=True)
class Gap:
    """Events of ``channel`` are missing here, ``missed`` of them; None where nobody knows."""

    __slots__ = ("channel", "missed")
    size = 0

    channel: str
    missed: int | None

    def __reduce__(self) -> Any:
        return type(self), (self.channel, self.missed)


Item = Event | Gap

#: A stored event: its position, that of the event before it, and itself where it was kept.
Row = tuple[Position, Position, Event | None]


def check_name(name: Any) -> str:
    """Return ``name``; raise ValueError where it cannot name a channel."""
    if not isinstance(name, str) or not 0 < len(name) <= MOST_CHARACTERS:
        raise ValueError(
            f"a channel's name must be a str of 1 to {MOST_CHARACTERS} characters,"
            f" not {name!r:.250}"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"a channel's name must be valid Unicode, not {name!r}") from None
    return name


def encode(data: Any) -> bytes:
    """Return ``data`` as it is stored and sent.

    Raises TypeError, naming the type, for what is neither bytes nor carried by JSON.
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        return b"b" + bytes(data)
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return b"j" + text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"channels carry bytes and what JSON carries, not this {type(data).__name__}: {error}"
        ) from error


def decode(payload: bytes) -> Any:
    """Return the data that was encoded.

    Raises ValueError for anything that :func:`encode` never made.
    """
    text = _text(payload)
    try:
        return payload[1:] if text is None else json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error


def _text(payload: bytes) -> str | None:
    # None for bytes.
    kind = payload[:1]
    if kind == b"b":
        return None
    if kind != b"j":
        raise ValueError("neither bytes nor JSON")
    return payload[1:].decode()


def make_id(position: Position) -> str:
    """Return the id of the event at ``position``."""
    return f"{position[0]:016d}-{position[1]:016d}"


def make_event(channel: str, position: Position, payload: bytes) -> Event:
    """Return the event at ``position`` that was encoded as ``payload``; it is parsed later.

    Raises ValueError for what is not of the kinds that :func:`encode` makes, or no UTF-8.
    """
    text = _text(payload)
    event: Event = Event.__new__(Event)
    _fill(event, channel, make_id(position), text, len(payload) - 1)
    if text is None:
        event.__dict__["data"] = payload[1:]
    return event


def position_of(event_id: str) -> Position | None:
    """Return where the event with this id stands, None for an id that never was one."""
    match = re.fullmatch(r"([0-9]{16})-([0-9]{16})", event_id)
    return (int(match[1]), int(match[2])) if match else None


def gap_between(channel: str, last: Position, position: Position) -> Gap | None:
    """Return what is missing between two events that a live feed got one after the other.

    An epoch that is seen from its first event on was not missed by a feed that was live.
    """
    if last[0] == position[0]:
        missed = position[1] - last[1] - 1
        return Gap(channel, missed) if missed > 0 else None
    return None if position[1] == 1 else Gap(channel, None)


def catch_up(
    channel: str, after: Position | None, head: Position | None, rows: Iterable[Row], again: bool
) -> tuple[list[Item], Position]:
    """Return the items that lead from one position to the newest, and where that is.

    ``after`` is the last event that was seen, None if that cannot be told; ``head`` the newest
    event, None if there is none; ``rows`` those still stored. Where ``after`` never was, a gap
    stands for all that is unknown, and everything stored follows if ``again`` is true.
    """
    if head is None:
        return ([] if after == NOWHERE else [Gap(channel, None)]), NOWHERE
    items: list[Item] = []
    at = after
    if at is None or at > head:
        items.append(Gap(channel, None))
        after = at = None
    for position, before, event in rows if after is not None or again else ():
        if event is None or (after is not None and position <= after):
            continue
        if at is not None and before != at:
            items.append(Gap(channel, _count(at, position, 1)))
        items.append(event)
        at = position
    if at is not None and at < head:
        items.append(Gap(channel, _count(at, head, 0)))
    return items, head if at is None else max(at, head)


def _count(last: Position | None, position: Position, present: int) -> int | None:
    if last is None or last[0] != position[0]:
        return None
    return position[1] - last[1] - present


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


class Feed:
    """One channel as one event loop gets it: who subscribed there, and what they got last."""

    __slots__ = ("channel", "last", "subscribers")

    def __init__(self, channel: str, last: Position | None) -> None:
        self.channel = channel
        self.last = last
        self.subscribers: dict[Subscription, None] = {}

    def deliver(self, position: Position, event: Event) -> None:
        """Hand an event to all, once, and first a gap if others are missing before it."""
        if self.last is not None:
            if position[0] == self.last[0] and position <= self.last:
                return
            gap = gap_between(self.channel, self.last, position)
            if gap is not None:
                self.put(gap)
        self.last = position
        self.put(event)

    def miss(self, position: Position) -> None:
        """Note that all after the last event, up to the one at ``position``, is lost."""
        self.put(Gap(self.channel, _count(self.last, position, 0)))
        self.last = position

    def put(self, item: Item) -> None:
        """Append ``item`` to the queue of every subscriber."""
        for subscription in self.subscribers:
            subscription.put(item)


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
        "_ended",
        "_error",
        "_ahead",
        "_replay",
        "_missed",
        "_queue",
        "_waiter",
        "_handed",
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
        # Whether nothing comes after the queue, and whether anything comes before it.
        self._ended = True
        self._error: SubscriptionOverflow | None = None
        self._ahead = False
        self._replay: deque[Item] | None = None
        self._missed: dict[str, int | None] | None = None
        self._queue: deque[Item] = deque()
        self._waiter: asyncio.Future[None] | None = None
        # What is for who waits, past the queue.
        self._handed: Item | None = None

    async def __aenter__(self) -> "Subscription":
        if self._loop is not None:
            raise RuntimeError("A subscription is entered once; call subscribe() again")
        self._loop = asyncio.get_running_loop()
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
        while True:
            if self._ahead:
                if self._replay:
                    return self._replay.popleft()
                if self._missed:
                    channel = next(iter(self._missed))
                    return Gap(channel, self._missed.pop(channel))
                self._ahead = False
            if self._queue:
                item = self._queue.popleft()
                self._left += item.size
                return item
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
                return handed

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
        if waiter is not None and not waiter.done() and size <= self._most_bytes:
            self._handed = item
            waiter.set_result(None)
            return
        if self._handed is not None:
            self._take_back()
        left = self._left - size
        if left < 0 or len(self._queue) >= self._limit:
            if self._error is not None:
                return
            if size > self._most_bytes:
                self._overflows.count(self.channels)
                return self.put(Gap(item.channel, 1))
            if not self._make_room(size):
                return
            left = self._left - size
        self._left = left
        self._queue.append(item)

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
            before = self._missed.get(oldest.channel, 0)
            self._missed[oldest.channel] = None if lost is None or before is None else before + lost
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
