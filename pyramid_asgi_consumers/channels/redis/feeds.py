"""One channel on one event loop: how each subscriber comes from its place to what is live. Pure.

Nothing here waits, or knows of Redis. The session hands in what arrives (``receive``). The reader
asks after which entry a page is to begin (``next_page``), and hands the page in (``take_page``).

The rules:

1. ``last`` is where the feed's ``subscribers`` stand: they have had everything up to there, or a
   gap for it. It is None until the first page tells the newest event.
2. On each new connection the feed first has to catch up: what was stored after ``last`` is read,
   page by page. What arrives meanwhile is held by the reading, and delivered when it has caught up.
   From then on what arrives is delivered at once.
3. Whoever subscribes with ``since`` is a joiner (``joining``): it gets what was stored after its
   own place, then what was held. By then it may be ahead of ``last``, since what it has read may
   still be on its way to the feed. With the first event after that it becomes a subscriber.
4. So does whoever comes without ``since`` and must not get what was before it: while the feed
   catches up or its first page is on its way, or while an event that this process has published
   itself has not arrived.
5. Nobody gets an event twice, or one from before its place. Within an epoch, positions tell. An
   event of an earlier epoch than that of ``last`` was still on its way, and is dropped, if its
   epoch is ``behind`` or later: that is where the feed stood before it caught up. An event of an
   epoch before that is delivered: the server's clock was put back.
"""

import asyncio
import time
from collections.abc import Iterable

from pyramid_asgi_consumers.channels.events import Event, Gap, Item
from pyramid_asgi_consumers.channels.feeds import Feed, Row, catch_up
from pyramid_asgi_consumers.channels.positions import (
    NOWHERE,
    Position,
    id_before,
    make_id,
    position_of,
)
from pyramid_asgi_consumers.channels.redis.beginnings import holds, is_beginning
from pyramid_asgi_consumers.channels.redis.readings import (
    NEVER,
    Joiner,
    Reading,
    is_after,
    is_before,
)
from pyramid_asgi_consumers.channels.subscriptions import Subscription


class StreamFeed(Feed):
    """What one event loop gets of a channel that Redis stores.

    ``missed`` is true where Redis is out of reach when it begins; ``expiry`` is how many seconds an
    event is stored at least.
    """

    __slots__ = (
        "_expiry",
        "_read_at",
        "asked",
        "beginning",
        "behind",
        "confirmed",
        "joining",
        "lost",
        "missed",
        "published",
        "reading",
        "caught_up",
        "waiters",
    )

    def __init__(self, channel: str, missed: bool, expiry: float) -> None:
        super().__init__(channel, None)
        self._expiry = expiry
        #: Where the channel stood when it was last read and nothing was stored, and when that was.
        self.beginning: Position | None = None
        self._read_at = 0.0
        #: Whether Redis sends its events: the session sets it.
        self.confirmed = False
        #: Whether a page is on its way: the reader sets it.
        self.asked = False
        #: Whether what arrives is delivered at once.
        self.caught_up = False
        #: The reading under way.
        self.reading: Reading | None = None
        self.joining: dict[Subscription, Joiner] = {}
        #: Whether events may have been missed before the feed stood anywhere.
        self.missed = missed
        #: Whether it has lost touch since it had caught up.
        self.lost = False
        #: The newest event that this process published. A thread may set it.
        self.published = NOWHERE
        #: Events of earlier epochs than that of ``last`` are dropped from this one on.
        self.behind = NEVER
        #: What whoever is being entered waits for.
        self.waiters: list[asyncio.Future[None]] = []

    def begin(self) -> None:
        """Begin on a new connection. Where each stands is kept."""
        self.confirmed = self.asked = self.caught_up = False
        self.reading = None

    def lose_touch(self) -> None:
        """Let nobody wait: the connection is lost."""
        self.missed = self.lost = True
        for subscription in (*self.subscribers, *self.joining):
            subscription.lose_touch()
        for subscription, joiner in list(self.joining.items()):
            if joiner.at_newest and joiner.reached is None:
                self._joined(subscription)
                self._begin(subscription, self.last)
        self.wake()

    def add(self, subscription: Subscription, since: str | None, in_touch: bool) -> None:
        """Add a subscription, which has seen the event with the id ``since``, or comes anew."""
        if since is not None:
            after = position_of(since)
            if after is not None and is_beginning(after):
                self.joining[subscription] = Joiner(NOWHERE, beginning=after)
            else:
                self.joining[subscription] = Joiner(after)
        elif self.last is not None and self.published > self.last:
            self.joining[subscription] = Joiner(reached=self.published, behind=self.last[0])
            self._begin(subscription, self.published)
        elif (self.last is not None or self.asked) and not self.caught_up and in_touch:
            # The page that is on its way may be from before.
            self.joining[subscription] = Joiner(at_newest=True)
        else:
            self.subscribers[subscription] = None
            self._begin(subscription, self.last)

    def _begin(self, subscription: Subscription, place: Position | None) -> None:
        begins_at = None if place is None else self._id_of(place)
        if begins_at is not None:
            subscription.begin(self.channel, begins_at)

    def _id_of(self, place: Position) -> str | None:
        # None where nothing can be told of what is stored.
        if place != NOWHERE:
            return make_id(place)
        if self.beginning is None:
            return None
        epoch, life = self.beginning
        if self.caught_up:
            # Nothing has come since, so this is where the channel stands now. No clock is slower
            # than another one by so much, and what is later than the server's time would not do.
            epoch += int((time.monotonic() - self._read_at) * 990_000)
        return make_id((epoch, life))

    def remove(self, subscription: Subscription) -> bool:
        """Remove a subscription; return whether it was there."""
        if subscription in self.joining:
            del self.joining[subscription]
        elif subscription in self.subscribers:
            del self.subscribers[subscription]
        else:
            return False
        return True

    def waits_for(self, subscription: Subscription) -> bool:
        """Return whether it is still unknown where the subscription begins."""
        joiner = self.joining.get(subscription)
        return self.last is None if joiner is None else not joiner.ready

    def wants_more(self) -> bool:
        """Return whether something stored is to be read."""
        return not self.caught_up or any(j.reached is None for j in self.joining.values())

    def receive(self, position: Position, event: Event) -> None:
        """Take an event that arrived."""
        if self.reading is not None:
            self.reading.hold(position, event)
        if self.caught_up:
            self.deliver(position, event)

    def deliver(self, position: Position, event: Event) -> None:
        """Hand an event to all, unless it was before what they have had."""
        if self.last is None or position[0] >= self.last[0]:
            self.behind = NEVER
        elif self.behind <= position[0]:
            return
        else:
            # The server's clock was put back, and nothing is left of what was.
            self.published = NOWHERE
        super().deliver(position, event)

    def put(self, item: Item) -> None:
        """Hand an item to the subscribers, and make those joiners subscribers that it comes to."""
        super().put(item)
        if not self.joining:
            return
        gap = item if isinstance(item, Gap) else None
        position = None if isinstance(item, Gap) else position_of(item.id)
        for subscription, joiner in list(self.joining.items()):
            reached = joiner.reached
            if reached is None:
                continue
            if position is None:
                joiner.gap = gap
            elif not is_before(position, reached, joiner.behind):
                self._join(subscription, joiner.gap, reached, position, 1)
                subscription.put(item)
            else:
                joiner.gap = None

    def _join(
        self,
        subscription: Subscription,
        gap: Gap | None,
        reached: Position,
        position: Position,
        present: int,
    ) -> None:
        # Of what is missing the subscriber may have had a part.
        if gap is not None and reached[0] == position[0]:
            missed = position[1] - reached[1] - present
            end = id_before(position) if present else make_id(position)
            gap = Gap(self.channel, missed, end) if missed > 0 else None
        if gap is not None:
            subscription.put(gap)
        self._joined(subscription)

    def _joined(self, subscription: Subscription) -> None:
        del self.joining[subscription]
        self.subscribers[subscription] = None

    def next_page(self) -> Position | None:
        """Return after which entry the next page begins, None where the newest id is enough."""
        pending = [joiner for joiner in self.joining.values() if joiner.reached is None]
        reading = self.reading
        if reading is not None and self.caught_up:
            if not any(joiner.reading is reading for joiner in pending):
                reading = None
        if reading is None:
            after = [joiner.after or NOWHERE for joiner in pending if not joiner.at_newest]
            others = self.subscribers or len(pending) < len(self.joining)
            if not self.caught_up and self.last is not None and others:
                after.append(self.last)
            behind = 0 if self.last is None else self.last[0]
            reading = self.reading = Reading(min(after, default=None), behind)
            for joiner in pending:
                joiner.reading = reading
        for joiner in pending:
            if joiner.at_newest:
                joiner.reading = reading
        return reading.after

    def take_page(
        self,
        newest: Position | None,
        rows: list[Row],
        end: Position | None,
        beginning: Position | None = None,
    ) -> None:
        """Take the page that was asked for.

        ``newest`` is the newest entry, None where there is none; ``end`` is the last one of the
        page, be it foreign; ``beginning`` is where the channel stood before the first event, if
        nothing is stored or the page has that.
        """
        if newest is None:
            self.beginning = beginning
            self._read_at = time.monotonic()
        reading = self.reading
        assert reading is not None  # next_page() began it
        joiners = {
            subscription: joiner
            for subscription, joiner in self.joining.items()
            if joiner.reached is None and joiner.reading is reading
        }
        if not reading.begun:
            if reading.begin(newest, joiners.values()):
                return
            if beginning is not None:
                self._forget_beginnings(joiners.values(), beginning)
        more = end is not None and newest is not None and end < newest
        upto = end if more else newest
        self._page_live(reading, newest, upto, rows)
        self._page_joining(reading, joiners, newest, upto, rows)
        if reading.after is not None:
            reading.after = upto or NOWHERE
        if reading.is_over(upto, more):
            self._end_reading(reading, joiners)
        assert self.last is not None  # from the first page on
        for subscription, joiner in list(self.joining.items()):
            if joiner.reached is not None and not is_after(joiner.reached, self.last):
                self._join(subscription, joiner.gap, joiner.reached, self.last, 0)
        self.wake()

    def _forget_beginnings(self, joiners: Iterable[Joiner], beginning: Position) -> None:
        # Who comes from where something may have come and gone since comes from nowhere.
        for joiner in joiners:
            before = joiner.beginning
            if before is not None and not holds(before, beginning, self._expiry):
                joiner.after = None

    def _page_live(
        self, reading: Reading, newest: Position | None, upto: Position | None, rows: list[Row]
    ) -> None:
        if self.caught_up:
            return
        if self.last is None:
            self.last = newest or NOWHERE
            if self.missed:
                self.put(Gap(self.channel, None, self._id_of(self.last)))
            for subscription in self.subscribers:
                self._begin(subscription, self.last)
            self._end_catching_up(reading)
        else:
            before = self.last
            items, self.last = self._lead(before, newest, upto, rows, again=False)
            if 0 < before[0] < self.last[0]:
                self.behind = min(self.behind, before[0])
            if self.last[0] < self.published[0]:
                self.published = NOWHERE
            for item in items:
                self.put(item)

    def _end_catching_up(self, reading: Reading) -> None:
        self.caught_up = True
        for position, event in reading.held:
            self.deliver(position, event)
        if self.lost:
            self.lost = False
            for subscription in (*self.subscribers, *self.joining):
                subscription.regain_touch()

    def _page_joining(
        self,
        reading: Reading,
        joiners: dict[Subscription, Joiner],
        newest: Position | None,
        upto: Position | None,
        rows: list[Row],
    ) -> None:
        # Most of them stand at the same place, and share what leads on from it.
        led: dict[Position | None, tuple[list[Item], Position]] = {}
        for subscription, joiner in joiners.items():
            joiner.ready = True
            if joiner.at_newest:
                joiner.reached = newest or NOWHERE
                joiner.behind = reading.behind
                self._begin(subscription, joiner.reached)
                continue
            before = joiner.after
            if before not in led:
                led[before] = self._lead(before, newest, upto, rows, again=True)
            items, after = led[before]
            if newest is None and before is not None and before[0] == reading.behind:
                # Nothing is stored, but what was may still be on its way.
                after = before
            joiner.follow(subscription, items, after, newest or NOWHERE)

    def _lead(
        self,
        after: Position | None,
        newest: Position | None,
        upto: Position | None,
        rows: list[Row],
        again: bool,
    ) -> tuple[list[Item], Position]:
        if after is not None and newest is not None and upto is not None:
            if upto <= after <= newest:
                return [], after
            if after > newest and not again:
                upto = newest
        items, reached = catch_up(self.channel, after, upto, rows, again)
        if upto is None and items:
            items = [Gap(self.channel, None, self._id_of(NOWHERE))]
        return items, reached

    def _end_reading(self, reading: Reading, joiners: dict[Subscription, Joiner]) -> None:
        if not self.caught_up:
            self._end_catching_up(reading)
        # Here, too, most of them stand at the same place.
        led: dict[Position, tuple[list[Item], Position]] = {}
        for subscription, joiner in joiners.items():
            if joiner.reached is None:
                after = joiner.after
                assert after is not None  # its page was taken
                if after not in led:
                    led[after] = reading.lead_on(self.channel, after)
                items, joiner.reached = led[after]
                joiner.behind = reading.behind
                for item in items:
                    subscription.put(item)
        self.reading = None

    def wake(self) -> None:
        """Have those that are being entered look again."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
