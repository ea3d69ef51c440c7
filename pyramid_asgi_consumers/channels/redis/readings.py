"""One way through what is stored of a channel, and the subscriptions that wait for it. Pure.

A reading goes from the oldest place that somebody wants to the newest event that was stored when it
began. It serves all who wanted something at that time; whoever comes later waits for the next one.
What arrives live meanwhile is held until its end. The feed (``feeds.py``) decides when one begins.
"""

from collections import deque
from collections.abc import Iterable

from pyramid_asgi_consumers.channels.events import Event, Gap, Item
from pyramid_asgi_consumers.channels.feeds import gap_between
from pyramid_asgi_consumers.channels.positions import NOWHERE, Position
from pyramid_asgi_consumers.channels.subscriptions import Subscription

# Live events and their bytes that a reading holds. Beyond these the oldest go, and the reading is
# prolonged to read them, but only so many times: then they are missing.
HELD = 1000
HELD_BYTES = 16 * 1024 * 1024
FURTHER = 3
# Later than any epoch.
NEVER = 2**63


class Joiner:
    """What is known of a subscription on its way to what is live."""

    __slots__ = (
        "after",
        "at_newest",
        "beginning",
        "behind",
        "gap",
        "live",
        "reached",
        "reading",
        "ready",
        "target",
    )

    def __init__(
        self,
        after: Position | None = None,
        reached: Position | None = None,
        at_newest: bool = False,
        behind: int = NEVER,
        beginning: Position | None = None,
    ) -> None:
        #: It has had everything up to here; None where it comes from a place that never was.
        self.after = after
        #: Where it comes from, if nothing was stored then.
        self.beginning = beginning
        #: Whether it came without a place, while its feed was catching up: it begins at the newest
        #: event of its first page.
        self.at_newest = at_newest
        #: Whether its first page was read: it is entered then.
        self.ready = reached is not None
        #: The reading that it waits for.
        self.reading: Reading | None = None
        #: The newest event at its first page: up to there it is given a replay. Beyond, it is
        #: ``live``: what is read counts against the bounds of its queue, as what arrives does.
        self.target: Position | None = None
        self.live = False
        #: Where its reading ended, None until then. The feed may still be on its way there; the
        #: first event behind it makes it one of the feed's subscribers.
        self.reached = reached
        #: What was missing just now on that way.
        self.gap: Gap | None = None
        #: The epoch in which the feed stood when the reading began: events of this epoch, and of
        #: those between it and that of ``reached``, were before ``reached``.
        self.behind = behind

    def follow(
        self, subscription: Subscription, items: list[Item], after: Position, newest: Position
    ) -> None:
        """Give it what a page has for it, up to ``after``; ``newest`` is stored."""
        self.after = after
        if self.target is None:
            self.target = newest
        if self.live:
            for item in items:
                subscription.put(item)
        else:
            subscription.replay(items)
        self.live = after >= self.target


class Reading:
    """One way through what is stored, and what arrived meanwhile."""

    __slots__ = ("after", "begun", "behind", "further", "held", "lost", "size", "target")

    def __init__(self, after: Position | None, behind: int) -> None:
        #: How far it got, None where it reads no entries: the newest id is enough.
        self.after = after
        #: The epoch in which the feed stood when it began.
        self.behind = behind
        self.begun = False
        #: Where it ends: at the newest event of its first page, or at one that it could not hold.
        self.target = NOWHERE
        #: How often it may still be prolonged.
        self.further = FURTHER
        #: What arrived meanwhile, its bytes, and the last event that had no room.
        self.held: deque[tuple[Position, Event]] = deque()
        self.size = 0
        self.lost = NOWHERE

    def begin(self, newest: Position | None, joiners: Iterable[Joiner]) -> bool:
        """Note its first page; return whether another first page is needed instead.

        That is where somebody comes from a place that never was, who gets everything, and this page
        does not begin with the oldest entry.
        """
        self.begun = True
        self.target = newest or NOWHERE
        anew = False
        for joiner in joiners:
            if newest is not None and joiner.after is not None and joiner.after > newest:
                joiner.after = None
                anew = self.after != NOWHERE
        if anew:
            self.after = NOWHERE
        return anew

    def hold(self, position: Position, event: Event) -> None:
        """Keep an event that arrived."""
        self.held.append((position, event))
        self.size += event.size
        while len(self.held) > HELD or (self.size > HELD_BYTES and len(self.held) > 1):
            self.lost, oldest = self.held.popleft()
            self.size -= oldest.size

    def is_over(self, upto: Position | None, more: bool) -> bool:
        """Return whether it ends with the page that goes up to ``upto``; ``more`` is stored."""
        if more and upto is not None and upto < self.target:
            return False
        if self.further and self.lost > (upto or NOWHERE):
            self.further -= 1
            self.target = self.lost
            return False
        return True

    def lead_on(self, channel: str, reached: Position) -> tuple[list[Item], Position]:
        """Return what was held for who has had all up to ``reached``, and how far that leads."""
        items: list[Item] = []
        for position, event in self.held:
            if not is_before(position, reached, self.behind):
                gap = gap_between(channel, reached, position)
                items += [event] if gap is None else [gap, event]
                reached = position
        return items, reached


def is_before(position: Position, reached: Position, behind: int) -> bool:
    """Return whether an event that arrives was before ``reached``.

    It was found there when the feed stood in the epoch ``behind``. Epochs are ordered in time, but
    for a server whose clock was put back.
    """
    if position[0] == reached[0]:
        return position <= reached
    return behind <= position[0] < reached[0]


def is_after(position: Position, other: Position) -> bool:
    """Return whether an event may be later than another one.

    Of two epochs nobody knows, but that is no reason to keep an event back.
    """
    return position[0] != other[0] or position > other
