"""The pool of worker threads, for pages and for handshakes; how they report to an event loop.

The order of statements matters in :class:`Crew`: see there.
"""

import asyncio
import contextvars
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from pyramid_asgi_consumers.raised import carried
from pyramid_asgi_consumers.shown import LOG_INTERVAL, Shown
from pyramid_asgi_consumers.turns import note

log = logging.getLogger(__name__)

# All threads may be busy for so many seconds before that is logged.
CROWDED = 0.2

Job = Callable[[], object]
Result = TypeVar("Result")


def check_threads() -> None:
    """Raise RuntimeError where gevent has made greenlets of what Python calls threads.

    Those do not run while the event loop waits in its own way: each page would hang.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        raise RuntimeError(
            "worker threads are needed, but gevent.monkey has patched threading, so views would"
            " never run: serve this application in a process that is not patched, or with"
            " patch_all(thread=False)"
        )


class ThreadPool:
    """Runs jobs side by side in at most ``size`` daemon threads.

    A thread is started when a job finds none free, so an unused pool has none. After a fork the
    child starts threads of its own: a server may preload the application.

    ``size`` is the greatest number of threads; ``name`` is what they are called. Where jobs wait
    because all threads are busy a warning says so, once a minute, with ``purpose``, what they are
    for; without ``purpose`` none does. Raises ValueError for a ``size`` below 1.
    """

    def __init__(self, size: int, name: str = "asgi", purpose: str | None = None) -> None:
        if size < 1:
            raise ValueError(f"ThreadPool: size must be at least 1, not {size!r}")
        self.size = size
        self.name = name
        self.purpose = purpose
        # A Crew, that of the process ``_pid``; there is none before.
        self._crew: Any = None
        self._pid: int | None = None

    def submit(self, job: Job) -> None:
        """Run ``job`` in a thread, after those that were submitted earlier.

        What ``job`` returns is dropped; what it raises is logged. Raises RuntimeError where not one
        thread can be started, or where it would be none (:func:`check_threads`).
        """
        if self._pid != os.getpid():
            self.crew()
        self._crew.submit(job)

    def crew(self) -> "Crew":
        """The threads of this process."""
        if self._pid != os.getpid():
            check_threads()
            self._crew = Crew(self.size, self.name, self.purpose)
            self._pid = os.getpid()
        crew: Crew = self._crew
        return crew

    async def run(self, function: Callable[..., Result], *args: object) -> Result:
        """Run ``function(*args)`` in a thread; return what it returns, raise what it raises.

        Cancelling the caller does not stop ``function``.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.submit(job_for(future, contextvars.copy_context().run, function, *args))
        return await future

    async def drain(self, timeout: float) -> bool:
        """Wait until no job runs or waits and all threads end, at most ``timeout`` seconds.

        Returns whether they have. The pool can be used again afterwards.
        """
        if self._pid != os.getpid():
            return True
        self._pid = None
        crew: Crew = self._crew
        return await crew.drain(timeout)


class Crowd:
    """Says that jobs of ``queue`` wait because all threads are busy, once a minute at most.

    ``threads`` is how many there are for them, ``purpose`` what for. The queue has ``jobs``, and in
    ``eased`` how often a thread found none.
    """

    def __init__(self, queue: Any, threads: int, purpose: str) -> None:
        self.queue = queue
        self.threads = threads
        self.purpose = purpose
        self._eased = -1
        self._since = 0.0
        self._next = 0.0

    def notice(self) -> None:
        """A job finds all threads busy: log it soon, unless one has been free by then."""
        now = time.monotonic()
        if self._eased != self.queue.eased:
            self._eased, self._since = self.queue.eased, now
        if now < self._next:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        loop.call_later(CROWDED, self._look, self._eased)
        # A loop that ends meanwhile never looks.
        self._next = now + 2 * CROWDED

    def _look(self, eased: int) -> None:
        waiting = len(self.queue.jobs)
        if not waiting or eased != self.queue.eased:
            return
        now = time.monotonic()
        self._next = now + LOG_INTERVAL
        log.warning(
            "Each of the %d threads for %s has been busy for %.1f s, and %d more wait",
            self.threads,
            self.purpose,
            now - self._since,
            waiting,
        )


class Crew:
    """The threads of one pool in one process, from its first job until it is drained.

    At most one thread at a time is being woken; it wakes the next when it takes a job and more are
    waiting. So views that only compute, which cannot run side by side under the interpreter lock,
    are left to few threads, that do not contend for it, while one that blocks lets the next in.
    Threads are woken in the reverse of the order in which they fell idle.

    A job costs no lock but where a thread is woken or falls idle: who adds a job looks at
    ``waking`` afterwards, who clears ``waking`` looks at the jobs afterwards, so one of the two
    sees what the other did.
    """

    def __init__(self, size: int, name: str, purpose: str | None = None) -> None:
        self.size = size
        self.name = name
        self.crowd = None if purpose is None else Crowd(self, size, purpose)
        self.jobs: deque[Job] = deque()
        # Whether a thread is on its way to the jobs.
        self.waking = False
        # Guards what follows.
        self.lock = threading.Lock()
        self.idle: list[threading.Lock] = []
        self.threads = 0
        self.eased = 0
        self.draining = False
        self.when_ended: Callable[[], object] | None = None
        note(self)

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        if not self.waking and self.wake():
            self.start(job)

    def wake(self) -> bool:
        """Wake a thread, if any is idle; return whether the caller is to start one instead."""
        with self.lock:
            if self.idle:
                self.waking = True
                self.idle.pop().release()
                return False
            if self.threads == self.size:
                if self.crowd is not None:
                    self.crowd.notice()
                return False
            self.waking = True
            self.threads += 1
            return True

    def is_busy(self) -> bool:
        """Whether all threads are there, and none is idle."""
        return self.threads == self.size and not self.idle

    def start(self, job: Job) -> None:
        """Start a thread. Where there is none at all, take ``job`` back and raise RuntimeError."""
        name = f"{self.name}-{self.threads}"
        try:
            threading.Thread(target=self.work, name=name, daemon=True).start()
        except RuntimeError as error:
            with self.lock:
                self.waking = False
                self.threads -= 1
                none = not self.threads
                # Who added a job meanwhile relied on this thread.
                if self.jobs and self.idle:
                    self.waking = True
                    self.idle.pop().release()
            if none:
                self.jobs.remove(job)
                raise
            log.warning(
                "There are only %d of %d threads: %s", self.threads, self.size, Shown(error)
            )

    def work(self) -> None:
        # Held by the idle thread; who wakes it releases it.
        bell = threading.Lock()
        bell.acquire()
        jobs = self.jobs
        self.waking = False
        while True:
            try:
                job = jobs.popleft()
            except IndexError:
                with self.lock:
                    # One may have come meanwhile.
                    if jobs:
                        continue
                    if self.draining:
                        self.threads -= 1
                        when_ended = None if self.threads else self.when_ended
                        break
                    self.eased += 1
                    self.idle.append(bell)
                bell.acquire()
                self.waking = False
                continue
            if jobs and not self.waking and self.wake():
                self.start(job)
            try:
                job()
            except BaseException:
                log.exception("A job failed in thread %s", threading.current_thread().name)
            # A view's objects go now, not when the next request comes.
            del job
        if when_ended is not None:
            when_ended()

    async def drain(self, timeout: float) -> bool:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        with self.lock:
            self.when_ended = lambda: call_soon(loop, set_outcome, ended, None, None)
            self.draining = True
            threads = self.threads
            for bell in self.idle:
                bell.release()
            self.idle.clear()
        if threads:
            await asyncio.wait([ended], timeout=timeout)
        return not threads or ended.done()


class Settler:
    """Settles futures of ``loop`` from other threads; those that come together, at one go."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()
        # Whether the loop was called and has not yet begun.
        self._called = False

    def settle(self, future: asyncio.Future[None]) -> bool:
        """Give ``future`` the result None, soon. Returns False where the loop has closed."""
        self._waiting.append(future)
        # A loop that has closed drops the calls that it has taken.
        if self._called and not self.loop.is_closed():
            return True
        self._called = True
        if call_soon(self.loop, self._settle_all):
            return True
        self._called = False
        self._waiting.clear()
        return False

    def _settle_all(self) -> None:
        self._called = False
        while self._waiting:
            set_outcome(self._waiting.popleft(), None, None)


def call_soon(
    loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object
) -> bool:
    """``loop.call_soon_threadsafe`` that returns False where the loop has closed meanwhile."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True


def job_for(future: asyncio.Future[Result], function: Callable[..., Result], *args: object) -> Job:
    """Return a job that calls ``function(*args)`` and gives ``future`` its outcome, on its loop."""
    loop = future.get_loop()

    def job() -> None:
        result = error = None
        try:
            result = function(*args)
        except BaseException as exception:
            error = exception
        call_soon(loop, set_outcome, future, result, error)

    return job


def set_outcome(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Give ``future`` its outcome, unless it was cancelled meanwhile."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(carried(error))
