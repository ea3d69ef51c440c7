"""When the handshakes of those who are connected are repeated, and what comes of it.

A :class:`Revalidation` is one application's, a :class:`Watch` that of one event loop, a
:class:`Stay` that of one connection. There is no task: a timer, then a job in a thread, which
reports to the loop. So whoever ends has nothing to wait for.
"""

import asyncio
import contextvars
import logging
import math
import random
from collections import OrderedDict
from functools import partial
from time import monotonic
from typing import Protocol

from pyramid_asgi_consumers.handshake.handshakes import Admission
from pyramid_asgi_consumers.handshake.repetition import Repetition
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.shown import LOG_INTERVAL, Shown

log = logging.getLogger(__name__)

#: By so much, as a part of itself, an interval is shorter or longer: who came together does not
#: come together for ever.
JITTER = 0.1

#: A connection without an interval whose handshake could not be repeated is tried again after so
#: many seconds.
RETRY = 30.0

#: Who checks all connections takes some at a time, so many seconds apart at least.
STEP = 0.01


class Connection(Protocol):
    """What is to be known of a connection."""

    consumer: Consumer
    admission: Admission

    @property
    def is_over(self) -> bool:
        """Whether it was put out, or has ended."""

    def put_out(self, code: int, reason: str) -> object:
        """End it, on its event loop; a websocket with the close ``code``."""


class Revalidation:
    """What all connections of an application share.

    ``interval`` are the seconds for consumers that state none; None is for those that state them
    only.
    """

    def __init__(self, interval: float | None = None) -> None:
        self.interval = interval
        self._failures: dict[Consumer, Failures] = {}

    def interval_of(self, consumer: Consumer) -> float | None:
        """So often, in seconds, connections to ``consumer`` are revalidated; None for never."""
        return consumer.revalidate or self.interval

    def failures(self, consumer: Consumer) -> "Failures":
        """Those of ``consumer``."""
        failures = self._failures.get(consumer)
        if failures is None:
            failures = self._failures[consumer] = Failures(consumer)
        return failures


class Watch:
    """Revalidates the connections of ``loop``, on which its methods are called."""

    def __init__(self, revalidation: Revalidation, loop: asyncio.AbstractEventLoop) -> None:
        self.revalidation = revalidation
        self.loop = loop
        self._stays: dict[Stay, None] = {}
        # Those that are to be checked, in this order, and how many in a second.
        self._unchecked: OrderedDict[Stay, None] = OrderedDict()
        self._pace = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection) -> "Stay":
        """Revalidate ``connection`` at its interval, if it has one, until :meth:`Stay.end`.

        It is called in the connection's own context, and its requests have that, too.
        """
        stay = Stay(self, connection)
        self._stays[stay] = None
        return stay

    def check_all(self, spread: float) -> None:
        """Revalidate each connection once, evenly over ``spread`` seconds.

        A request that has begun already does not count. Those that still wait for an earlier call
        are next, and only once.
        """
        for stay in self._stays:
            if not stay.is_next:
                self._unchecked.setdefault(stay)
        self._pace = len(self._unchecked) / max(spread, STEP)
        if self._timer is None and self._unchecked:
            self._due = self.loop.time()
            self._step_at(self._due)

    def _step_at(self, when: float) -> None:
        # The next connection has nothing to do with who asked, nor with the last one.
        self._timer = self.loop.call_at(when, self._step, context=contextvars.Context())

    def _step(self) -> None:
        self._timer = None
        now = self.loop.time()
        while self._unchecked and self._due <= now:
            self._due += 1 / self._pace
            stay, _ = self._unchecked.popitem(last=False)
            stay.check()
        if self._unchecked:
            self._step_at(max(self._due, now + STEP))

    def is_checked(self, stay: "Stay") -> None:
        """``stay`` need not be checked any more: its handshake is about to be repeated, or over."""
        self._unchecked.pop(stay, None)

    def forget(self, stay: "Stay") -> None:
        """``stay`` is over."""
        self._stays.pop(stay, None)
        self.is_checked(stay)

    def end(self) -> None:
        """Revalidate nobody any more of those that are here: the server stops."""
        for stay in list(self._stays):
            stay.end()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Stay:
    """One connection, for as long as it lasts."""

    __slots__ = (
        "_connection",
        "_context",
        "_interval",
        "_is_again",
        "_repetition",
        "_timer",
        "_watch",
    )

    def __init__(self, watch: Watch, connection: Connection) -> None:
        self._watch = watch
        self._connection = connection
        self._context = contextvars.copy_context()
        self._interval = watch.revalidation.interval_of(connection.consumer)
        self._timer: asyncio.TimerHandle | None = None
        # The one that waits for a thread, or is in one.
        self._repetition: Repetition | None = None
        # Whether another one is to follow it at once.
        self._is_again = False
        # Who comes together, after a restart, say, is not to be asked together.
        self._wait(self._interval, least=0.0, most=1.0)

    @property
    def is_next(self) -> bool:
        """Whether its request waits for a thread."""
        return self._repetition is not None and not self._repetition.has_begun

    def check(self) -> None:
        """Revalidate it now, by a request that begins after this call."""
        if self._repetition is None:
            self._context.run(self._begin)
        else:
            self._is_again = True

    def check_in(self, seconds: float) -> None:
        """Revalidate it after so many seconds, if that is not done by then."""
        if self._interval is None or seconds < self._interval:
            self._stop_waiting()
            self._wait(seconds)

    def end(self) -> None:
        """The connection is over. What runs in a thread goes on, and has no effect."""
        self._watch.forget(self)
        self._stop_waiting()
        if self._repetition is not None:
            self._repetition.cancel()
            self._repetition = None

    def _wait(
        self, seconds: float | None, least: float = 1 - JITTER, most: float = 1 + JITTER
    ) -> None:
        if seconds is not None:
            seconds *= random.uniform(least, most)
            self._timer = self._watch.loop.call_later(seconds, self._begin, context=self._context)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin(self) -> None:
        self._stop_waiting()
        self._watch.is_checked(self)
        if self._connection.is_over:
            return
        admission, loop = self._connection.admission, self._watch.loop
        try:
            self._repetition = Repetition(admission, loop, self._hear)
        except RuntimeError as error:
            # There is not one thread.
            self._failed(error, contextvars.copy_context())
            self._wait(self._interval or RETRY)

    def _hear(self, repetition: Repetition) -> None:
        self._repetition = None
        self._context.run(self._obey, repetition)

    def _obey(self, repetition: Repetition) -> None:
        is_again, self._is_again = self._is_again, False
        if self._connection.is_over:
            return
        seconds = self._interval
        if repetition.end is not None:
            self._connection.put_out(*repetition.end)
            return
        if repetition.failure is not None:
            self._failed(repetition.failure, repetition.exchange.context_vars)
            seconds = seconds or RETRY
        if is_again:
            self._begin()
        else:
            self._wait(seconds)

    def _failed(self, failure: BaseException | int, context: contextvars.Context) -> None:
        failures = self._watch.revalidation.failures(self._connection.consumer)
        failures.tell(failure, context)


class Failures:
    """Says why handshakes of ``consumer`` cannot be repeated.

    One line in ``LOG_INTERVAL`` says so; the others are debug ones, and the next line has their
    number. A database that is down makes no storm.
    """

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._since = -math.inf
        self._more = 0

    def tell(self, failure: BaseException | int, context: contextvars.Context) -> None:
        """Log ``failure``, an error or a status, with the contextvars that its request left."""
        now = monotonic()
        error = failure if isinstance(failure, BaseException) else None
        words = Shown(failure if error is None else error)
        if now - self._since < LOG_INTERVAL:
            self._more += 1
            log.debug("A handshake of %s could not be repeated: %s", self._consumer, words)
            return
        more, self._since, self._more = self._more, now, 0
        report = partial(
            log.error,
            "A handshake of %s could not be repeated, so its connection stays for now: %s (and %d"
            " more since the last such line)",
            self._consumer,
            words,
            more,
            exc_info=error,
        )
        # The thread may be inside of that still.
        context.copy().run(report)
