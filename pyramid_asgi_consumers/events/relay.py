"""Forwards channels to an event stream: the id of each event says where all of them stand."""

from time import monotonic
from typing import Any

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.channels.envelopes import envelope_of, missed_of, payload_of
from pyramid_asgi_consumers.channels.events import Event, Item
from pyramid_asgi_consumers.channels.relay import Relay
from pyramid_asgi_consumers.channels.subscriptions import Subscription
from pyramid_asgi_consumers.events.encoding import encode_event, encode_id
from pyramid_asgi_consumers.events.ids import Ids

#: The name of the event that stands for missing ones.
GAP = "gap"

#: By the name of each channel the id of the event at which it stands, None where nobody knows.
Positions = dict[str, str | None]


class Frames:
    """Remembers what was made of the last event of channels: readers of the same get the same."""

    def __init__(self) -> None:
        self._last: tuple[Item | None, bool, tuple[str, ...], Positions, bytes]
        self._last = (None, False, (), {}, b"")

    def of(self, item: Item, envelope: bool, ids: Ids, positions: Positions) -> bytes:
        """``item`` as the bytes of an event, in whose id the channels of ``ids`` stand there.

        See :meth:`.EventStream.relay`.
        """
        # An id takes longer to make than all else here.
        last, last_envelope, names, stood, frame = self._last
        if (
            last is not item
            or stood != positions
            or names != ids.names
            or last_envelope is not envelope
        ):
            frame = _frame(item, ids.make(positions), envelope)
            # At once, since other threads may ask, too.
            self._last = (item, envelope, ids.names, positions.copy(), frame)
        return frame


def _frame(item: Item, id: str, envelope: bool) -> bytes:
    if not isinstance(item, Event):
        return encode_event(missed_of(item.channel, item.missed), GAP, id)
    return encode_event(envelope_of(item) if envelope else payload_of(item), None, id)


class Relays:
    """The relays of one stream, which has one at a time: an event has one id."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        #: Where the channels of the relay that runs stand.
        self.running: Positions | None = None
        #: Where those of relays that were left stand.
        self.left_at: dict[tuple[str, ...], Positions] = {}

    def make(
        self, stream: Any, names: tuple[str, ...], envelope: bool, options: dict[str, Any]
    ) -> Relay:
        """See :meth:`.EventStream.relay`; ``options`` are those of its subscription."""
        if "on_gap" in options:
            raise TypeError(
                "relay: on_gap is for websockets; in an event stream a gap is an event named gap"
            )
        subscribe = stream.channels.subscribe
        subscription = subscribe(*names, **options)
        ids = Ids(subscription.channels)
        seen = self._seen(stream, ids, options)
        if seen:
            since = {name: id for name, id in seen.items() if id is not None}
            subscription = subscribe(*names, **{**options, "since": since})
        one = _One(self, stream, ids, seen, envelope or len(ids.names) > 1)
        return Relay(
            subscription,
            one.begin,
            one.forward,
            one.end,
            None if one.send_at_once is None else one.at_once,
        )

    def _seen(self, stream: Any, ids: Ids, options: dict[str, Any]) -> Positions:
        """Where the client, or the last relay of the same channels, stood; empty for nowhere."""
        left_at = self.left_at.get(ids.names)
        if left_at is not None:
            return {name: left_at.get(name) for name in ids.names}
        seen = ids.read(stream.last_event_id) or {}
        if not any(seen.values()) and (self.left_at or options.get("since")):
            # The id is that of another relay of this stream; or the page knows where to begin.
            return {}
        return seen


class _One:
    # One relay, from its making on.

    def __init__(self, relays: Relays, stream: Any, ids: Ids, seen: Positions, wraps: bool) -> None:
        self._relays = relays
        self._stream = stream
        self._write = stream._write
        self._ids = ids
        self._seen = seen
        self._wraps = wraps
        self._positions: Positions = {}
        self.send_at_once: Any = stream.scope.get(quirks.AT_ONCE)

    async def begin(self, subscription: Subscription) -> None:
        if self._relays.running is not None:
            raise RuntimeError(
                "relay: this stream has a relay already; one relay can have all channels:"
                " stream.relay(*names)"
            )
        positions = self._relays.running = self._positions
        positions.update(subscription.positions)
        id = self._ids.make(positions)
        await self._write(encode_id(id))
        for name, stood in self._seen.items():
            if stood is None:
                # Nobody knows where it stood when the client saw its last event.
                await self._write(encode_event(missed_of(name, None), GAP, id))

    async def forward(self, item: Item) -> None:
        before = self._positions.get(item.channel)
        try:
            await self._write(self._frame_of(item))
        except BaseException:
            # Nobody knows whether it was sent: a relay that goes on here sends it again.
            self._positions[item.channel] = before
            raise

    def at_once(self, item: Item) -> bool:
        if self._stream._is_over:
            return False
        before = self._positions.get(item.channel)
        is_sent = False
        try:
            frame = self._frame_of(item)
            is_sent = self.send_at_once(
                {"type": "http.response.body", "body": frame, "more_body": True}
            )
        except Exception:
            # It is raised again where the relay is heard: who publishes has no part in it.
            pass
        if is_sent:
            self._stream._last = monotonic()
        else:
            self._positions[item.channel] = before
        return is_sent

    def end(self) -> None:
        # It may have been refused within another one.
        if self._relays.running is self._positions:
            self._relays.running = None
            self._relays.left_at[self._ids.names] = self._positions

    def _frame_of(self, item: Item) -> bytes:
        if item.id is not None:
            self._positions[item.channel] = item.id
        return self._relays.frames.of(item, self._wraps, self._ids, self._positions)
