"""For backends: gives subscribers the events of a channel, and a gap where some are missing."""

from collections.abc import Iterable

from pyramid_asgi_consumers.channels.events import Event, Gap, Item
from pyramid_asgi_consumers.channels.positions import NOWHERE, Position, id_before, make_id
from pyramid_asgi_consumers.channels.subscriptions import Subscription

#: A stored event: its position, that of the event before it, and itself where it was kept.
Row = tuple[Position, Position, Event | None]


def gap_between(channel: str, last: Position, position: Position) -> Gap | None:
    """Return what is missing between two events that a live feed got one after the other.

    An epoch that is seen from its first event on was not missed by a feed that was live.
    """
    if last[0] == position[0]:
        missed = position[1] - last[1] - 1
        return Gap(channel, missed, id_before(position)) if missed > 0 else None
    return None if position[1] == 1 else Gap(channel, None, id_before(position))


def catch_up(
    channel: str, after: Position | None, head: Position | None, rows: Iterable[Row], again: bool
) -> tuple[list[Item], Position]:
    """Return the items that lead from one position to the newest, and where that is.

    ``after`` is the last event that was seen, None if that cannot be told; ``head`` the newest
    event, None if there is none; ``rows`` those still stored. Where ``after`` never was, a gap
    stands for all that is unknown, and everything stored follows if ``again`` is true.

    Each gap has the id from which what follows it comes again, but where there is no event at all.
    """
    if head is None:
        return ([] if after == NOWHERE else [Gap(channel, None)]), NOWHERE
    items: list[Item] = []
    if after is not None and after > head:
        after = None
    at = after
    for position, before, event in rows if after is not None or again else ():
        if event is None or (after is not None and position <= after):
            continue
        if at is None or not (before == at or _begins(at, position)):
            items.append(Gap(channel, _count(at, position, 1), id_before(position)))
        items.append(event)
        at = position
    if at is None or at < head:
        items.append(Gap(channel, _count(at, head, 0), make_id(head)))
    return items, head if at is None else max(at, head)


def _begins(at: Position, position: Position) -> bool:
    # Whether the first event of an epoch follows the place right before it.
    return position[1] == 1 and at == (position[0], 0)


def _count(last: Position | None, position: Position, present: int) -> int | None:
    if last is None or last[0] != position[0]:
        return None
    return position[1] - last[1] - present


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
        self.put(Gap(self.channel, _count(self.last, position, 0), make_id(position)))
        self.last = position

    def put(self, item: Item) -> None:
        """Append ``item`` to the queue of every subscriber."""
        for subscription in self.subscribers:
            subscription.put(item)
