"""Each moment of a run, one after the other, and what is to happen in it."""

import asyncio
import itertools
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

SECONDS = 20


class Moments:
    """Counts the moments of a run; in the one with the number ``chosen``, ``act()`` is called.

    That is in another thread, for which this one waits.
    """

    def __init__(self, chosen, act):
        self.chosen = chosen
        self.act = act
        #: Whether that was done, and how many moments have come.
        self.has_come = False
        self.passed = 0
        self._numbers = itertools.count()
        #: The thread in which it is done. What it does has no moments of its own.
        self.actor = None

    def come(self):
        """A moment comes, in any thread."""
        number = next(self._numbers)
        self.passed = number + 1
        if number == self.chosen:
            self.now()

    def now(self):
        """Act in this moment, whatever its number."""
        self.has_come = True
        with ThreadPoolExecutor(1) as executor:
            executor.submit(self._act).result(SECONDS)

    def _act(self):
        self.actor = threading.get_ident()
        self.act()


class _Ready(deque):
    moments = None

    def popleft(self):
        if self.moments is not None:
            self.moments.come()
        return super().popleft()


class Steps:
    """Has a moment before each callback of an event loop, so at each step of each task."""

    def make_loop(self):
        """An event loop that has such moments."""
        loop = asyncio.SelectorEventLoop()
        loop._ready = self._ready = _Ready()
        return loop

    @contextmanager
    def having(self, moments):
        """Have these moments for the time of the block, on the loop that was made last."""
        self._ready.moments = moments
        try:
            yield
        finally:
            self._ready.moments = None


class Calls:
    """Has a moment at each call from, and each return to, code of files in ``places``.

    In threads that begin while :meth:`having` is entered.
    """

    make_loop = asyncio.SelectorEventLoop

    def __init__(self, *places):
        self.moments = None
        # Coverage does not see what this does.
        self._look = lambda frame, event, argument: (
            self.moments is not None
            and frame.f_code.co_filename.startswith(places)
            and threading.get_ident() != self.moments.actor
            and self.moments.come()
        )

    @contextmanager
    def having(self, moments):
        """Have these moments for the time of the block."""
        self.moments = moments
        threading.setprofile(self._look)
        try:
            yield
        finally:
            threading.setprofile(None)
            self.moments = None


def run(main, loop):
    """Do what ``asyncio.run`` does, on ``loop``."""
    try:
        return loop.run_until_complete(main)
    finally:
        # Where the test has failed there are some.
        asyncio.runners._cancel_all_tasks(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
