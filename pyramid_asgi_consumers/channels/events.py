"""What is published: an event, or a gap where some are missing, and how its data is encoded.

A payload is one letter (``b`` for bytes, ``j`` for JSON) and then the data: see :func:`encode`.
"""

import json
import threading
import weakref
from collections import deque
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any, NoReturn

from pyramid_asgi_consumers.channels.forks import at_fork
from pyramid_asgi_consumers.channels.positions import Position, make_id
from pyramid_asgi_consumers.exceptions import InvalidEvent
from pyramid_asgi_consumers.shown import Shown

MOST_CHARACTERS = 200

#: The channel of the package itself: see ``disconnects``.
RESERVED = "pyramid_asgi_consumers.disconnect"

#: How many bytes of JSON may stay parsed in the events that wait or are stored, and what each event
#: counts besides its own.
MOST_PARSED = 4 * 1024 * 1024

PARSED = 200


class _Parsed:
    # What ``Event.data`` is: the event's text, parsed when first asked for and then kept in its
    # ``__dict__``. The oldest events lose it again, since it may take 25 times the memory of the
    # text, wherever an event waits or is stored. An entry stays in the list when its event is gone,
    # so each one counts PARSED bytes more.

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


@dataclass(frozen=True, slots=True)
class Gap:
    """Events of ``channel`` are missing here, ``missed`` of them; None where nobody knows.

    ``id`` is where the channel goes on after them: who has noted the gap may resume from there. It
    is None where nobody knows, and does not count when gaps are compared.
    """

    size = 0

    channel: str
    missed: int | None
    id: str | None = field(default=None, compare=False)

    def __reduce__(self) -> Any:
        return type(self), (self.channel, self.missed, self.id)


Item = Event | Gap


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
    if name == RESERVED:
        # Who may subscribe there would learn who is put out.
        raise ValueError(f"the channel {name!r} is the package's own: await disconnect() instead")
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
