"""One channel on one event loop: how a subscriber comes from its place to what is live."""

import asyncio
from collections import deque
from collections.abc import Iterable

from pyramid_asgi_consumers.channels.base import (
    NOWHERE,
    Event,
    Feed,
    Gap,
    Item,
    Position,
    Row,
    Subscription,
    catch_up,
    gap_between,
    position_of,
)

# Live events and their bytes that wait for the end of a reading; beyond, they are read with it, and
# after so many times as it was prolonged for that, are missing.
HELD = 1000
HELD_BYTES = 16 * 1024 * 1024
FURTHER = 3
# Later than any epoch.
NEVER = 2**63


class _Joiner:
    # A subscription on its way to what is live. It has had everything up to ``after`` (None: it
    # comes from a place that cannot be told), and is ``ready`` to be entered from its first page
    # on. ``reached`` is where its replay ended, which may be ahead of what is live, ``gap`` what is
    # missing there; what is published in epochs from ``behind`` on was before that. Up to
    # ``target``, the newest id at its first page, it is a replay; beyond, it is ``live`` and counts
    # as what arrives does. Who comes while the feed catches up begins ``at_head``.
    __slots__ = (
        "after",
        "at_head",
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
        at_head: bool = False,
        behind: int = NEVER,
    ) -> None:
        self.after = after
        self.reached = reached
        self.at_head = at_head
        self.behind = behind
        self.gap: Gap | None = None
        self.reading: _Reading | None = None
        self.ready = reached is not None
        self.target: Position | None = None
        self.live = False

    def take(self, subscription: Subscription, items: list[Item], head: Position) -> None:
        if self.target is None:
            self.target = head
        if self.live:
            for item in items:
                subscription.put(item)
        else:
            subscription.replay(items)
        self.live = self.after >= self.target


class _Reading:
    # One way through what is stored, page by page, for all who wanted it when it began. ``after``
    # is how far it got, None where the newest id is enough; ``target`` is where it ends, the newest
    # id at its first page; ``held`` came meanwhile, ``lost`` is the last that had no room there.
    # Then it goes ``further``, though not for ever, however much is published. ``behind`` is the
    # epoch in which the feed stood when it began.
    __slots__ = ("after", "begun", "behind", "further", "held", "lost", "size", "target")

    def __init__(self, after: Position | None, behind: int) -> None:
        self.after = after
        self.behind = behind
        self.begun = False
        self.target = self.lost = NOWHERE
        self.further = FURTHER
        self.held: deque[tuple[Position, Event]] = deque()
        self.size = 0

    def hold(self, position: Position, event: Event) -> None:
        self.held.append((position, event))
        self.size += event.size
        while len(self.held) > HELD or (self.size > HELD_BYTES and len(self.held) > 1):
            self.lost, oldest = self.held.popleft()
            self.size -= oldest.size

    def is_over(self, upto: Position | None, more: bool) -> bool:
        if more and upto < self.target:
            return False
        if self.further and self.lost > (upto or NOWHERE):
            self.further -= 1
            self.target = self.lost
            return False
        return True


class StreamFeed(Feed):
    # Until it is settled, ``last`` is where its subscribers stand, and what comes after that is
    # read; from then on what arrives is delivered, but for what is still on its way from before it
    # was read: from epochs that are ``behind`` or later, and earlier than that of ``last``.
    __slots__ = (
        "asked",
        "behind",
        "confirmed",
        "joining",
        "missed",
        "published",
        "reading",
        "settled",
        "waiters",
    )

    def __init__(self, channel: str, missed: bool) -> None:
        super().__init__(channel, None)
        # Whether Redis sends its events, and whether a page of it is on its way.
        self.confirmed = self.asked = False
        self.settled = False
        self.reading: _Reading | None = None
        self.joining: dict[Subscription, _Joiner] = {}
        # Whether it was out of touch before it ever stood anywhere.
        self.missed = missed
        # The newest event that this process published.
        self.published = NOWHERE
        self.behind = NEVER
        self.waiters: list[asyncio.Future[None]] = []

    def begin(self) -> None:
        # On a new connection. Where each stands is kept.
        self.confirmed = self.asked = self.settled = False
        self.reading = None

    def lose_touch(self) -> None:
        self.missed = True
        for subscription, joiner in list(self.joining.items()):
            if joiner.at_head and joiner.reached is None:
                self._joined(subscription)
        self.wake()

    def add(self, subscription: Subscription, since: str | None, in_touch: bool) -> None:
        if since is not None:
            self.joining[subscription] = _Joiner(position_of(since))
        elif self.last is not None and self.published > self.last:
            self.joining[subscription] = _Joiner(reached=self.published, behind=self.last[0])
        elif (self.last is not None or self.asked) and not self.settled and in_touch:
            # The page that is on its way may be from before.
            self.joining[subscription] = _Joiner(at_head=True)
        else:
            self.subscribers[subscription] = None

    def waits_for(self, subscription: Subscription) -> bool:
        joiner = self.joining.get(subscription)
        return self.last is None if joiner is None else not joiner.ready

    def wants_more(self) -> bool:
        return not self.settled or any(j.reached is None for j in self.joining.values())

    def receive(self, position: Position, event: Event) -> None:
        if self.reading is not None:
            self.reading.hold(position, event)
        if self.settled:
            self.deliver(position, event)

    def deliver(self, position: Position, event: Event) -> None:
        if self.last is None or position[0] >= self.last[0]:
            self.behind = NEVER
        elif self.behind <= position[0]:
            return
        else:
            # The server's clock was put back, and nothing is left of what was.
            self.published = NOWHERE
        super().deliver(position, event)

    def put(self, item: Item) -> None:
        super().put(item)
        if not self.joining:
            return
        position = None if isinstance(item, Gap) else position_of(item.id)
        for subscription, joiner in list(self.joining.items()):
            if joiner.reached is None:
                continue
            if position is None:
                joiner.gap = item
            elif not _is_before(position, joiner.reached, joiner.behind):
                self._join(subscription, joiner, position, 1)
                subscription.put(item)
            else:
                joiner.gap = None

    def _join(
        self, subscription: Subscription, joiner: _Joiner, position: Position, present: int
    ) -> None:
        # Of what is missing the subscriber may have had a part.
        gap = joiner.gap
        if gap is not None and joiner.reached[0] == position[0]:
            missed = position[1] - joiner.reached[1] - present
            gap = Gap(self.channel, missed) if missed > 0 else None
        if gap is not None:
            subscription.put(gap)
        self._joined(subscription)

    def _joined(self, subscription: Subscription) -> None:
        del self.joining[subscription]
        self.subscribers[subscription] = None

    def next_page(self) -> Position | None:
        # After which entry the next page begins, None where the newest id is enough.
        pending = [joiner for joiner in self.joining.values() if joiner.reached is None]
        reading = self.reading
        if reading is not None and self.settled:
            if not any(joiner.reading is reading for joiner in pending):
                reading = None
        if reading is None:
            after = [joiner.after or NOWHERE for joiner in pending if not joiner.at_head]
            others = self.subscribers or len(pending) < len(self.joining)
            if not self.settled and self.last is not None and others:
                after.append(self.last)
            behind = 0 if self.last is None else self.last[0]
            reading = self.reading = _Reading(min(after, default=None), behind)
            for joiner in pending:
                joiner.reading = reading
        for joiner in pending:
            if joiner.at_head:
                joiner.reading = reading
        return reading.after

    def take_page(self, head: Position | None, rows: list[Row], end: Position | None) -> None:
        # ``head`` is the newest id, ``end`` that of the page's last entry, be it foreign.
        reading = self.reading
        joiners = {
            subscription: joiner
            for subscription, joiner in self.joining.items()
            if joiner.reached is None and joiner.reading is reading
        }
        if not reading.begun:
            reading.begun = True
            reading.target = head or NOWHERE
            if head is not None and self._begin_anew(joiners.values(), head):
                return
        more = end is not None and head is not None and end < head
        upto = end if more else head
        self._page_live(head, upto, rows)
        self._page_joining(joiners, head, upto, rows)
        if reading.after is not None:
            reading.after = upto or NOWHERE
        if reading.is_over(upto, more):
            self._end_reading(joiners)
        for subscription, joiner in list(self.joining.items()):
            if joiner.reached is not None and not is_after(joiner.reached, self.last):
                self._join(subscription, joiner, self.last, 0)
        self.wake()

    def _begin_anew(self, joiners: Iterable[_Joiner], head: Position) -> bool:
        # Who comes from a place that never was gets everything.
        anew = False
        for joiner in joiners:
            if joiner.after is not None and joiner.after > head:
                joiner.after = None
                anew = self.reading.after != NOWHERE
        if anew:
            self.reading.after = NOWHERE
        return anew

    def _page_live(self, head: Position | None, upto: Position | None, rows: list[Row]) -> None:
        if self.settled:
            return
        if self.last is None:
            if self.missed:
                self.put(Gap(self.channel, None))
            self.last = head or NOWHERE
            self._settle()
        else:
            before = self.last
            items, self.last = self._lead(before, head, upto, rows, again=False)
            if 0 < before[0] < self.last[0]:
                self.behind = min(self.behind, before[0])
            if self.last[0] < self.published[0]:
                self.published = NOWHERE
            for item in items:
                self.put(item)

    def _settle(self) -> None:
        self.settled = True
        for position, event in self.reading.held:
            self.deliver(position, event)

    def _page_joining(
        self,
        joiners: dict[Subscription, _Joiner],
        head: Position | None,
        upto: Position | None,
        rows: list[Row],
    ) -> None:
        # Most of them stand at the same place, and share what leads on from it.
        led: dict[Position | None, tuple[list[Item], Position]] = {}
        for subscription, joiner in joiners.items():
            joiner.ready = True
            if joiner.at_head:
                joiner.reached = head or NOWHERE
                joiner.behind = self.reading.behind
                continue
            if joiner.after not in led:
                led[joiner.after] = self._lead(joiner.after, head, upto, rows, again=True)
            before = joiner.after
            items, joiner.after = led[before]
            if head is None and before is not None and before[0] == self.reading.behind:
                # Nothing is stored, but what was may still be on its way.
                joiner.after = before
            joiner.take(subscription, items, head or NOWHERE)

    def _lead(
        self,
        after: Position | None,
        head: Position | None,
        upto: Position | None,
        rows: list[Row],
        again: bool,
    ) -> tuple[list[Item], Position]:
        if after is not None and head is not None:
            if upto <= after <= head:
                return [], after
            if after > head and not again:
                upto = head
        return catch_up(self.channel, after, upto, rows, again)

    def _end_reading(self, joiners: dict[Subscription, _Joiner]) -> None:
        if not self.settled:
            self._settle()
        followed: dict[Position, tuple[list[Item], Position]] = {}
        for subscription, joiner in joiners.items():
            if joiner.reached is None:
                if joiner.after not in followed:
                    followed[joiner.after] = self._follow(joiner.after, self.reading)
                items, joiner.reached = followed[joiner.after]
                joiner.behind = self.reading.behind
                for item in items:
                    subscription.put(item)
        self.reading = None

    def _follow(self, reached: Position, reading: _Reading) -> tuple[list[Item], Position]:
        items: list[Item] = []
        for position, event in reading.held:
            if not _is_before(position, reached, reading.behind):
                gap = gap_between(self.channel, reached, position)
                items += [event] if gap is None else [gap, event]
                reached = position
        return items, reached

    def wake(self) -> None:
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


def _is_before(position: Position, reached: Position, behind: int) -> bool:
    # Whether an event that arrives had come by what was reached when the feed stood in the epoch
    # ``behind``. Epochs are ordered in time, but for a server whose clock was put back.
    if position[0] == reached[0]:
        return position <= reached
    return behind <= position[0] < reached[0]


def is_after(position: Position, other: Position) -> bool:
    # Of two epochs nobody knows, but that is no reason to keep an event back.
    return position[0] != other[0] or position > other
