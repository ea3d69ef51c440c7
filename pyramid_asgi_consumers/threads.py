"""The worker threads in which WSGI applications run."""

import asyncio
import contextvars
import logging
import os
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)


class ThreadPool:
    """Runs jobs side by side in at most ``size`` daemon threads.

    A thread is started when a job finds none free, so an unused pool has none. After a fork the
    child starts threads of its own: a server may preload the application.

    ``size`` is the greatest number of threads; ``name`` is what they are called. Raises ValueError
    for a ``size`` below 1.
    """

    def __init__(self, size: int, name: str = "asgi") -> None:
        if size < 1:
            raise ValueError(f"ThreadPool: size must be at least 1, not {size!r}")
        self.size = size
        self.name = name
        self._crew: _Crew | None = None
        self._pid: int | None = None

    def submit(self, job: Callable[[], object]) -> None:
        """Run ``job`` in a thread, after those that were submitted earlier.

        What ``job`` returns is dropped; what it raises is logged. Raises RuntimeError where not one
        thread can be started.
        """
        if self._pid != os.getpid():
            self._crew = _Crew(self.size, self.name)
            self._pid = os.getpid()
        self._crew.submit(job)

    async def run(self, function: Callable[..., object], *args: object) -> object:
        """Run ``function(*args)`` in a thread; return what it returns, raise what it raises.

        Cancelling the caller does not stop ``function``.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()

        context = contextvars.copy_context()

        def job() -> None:
            try:
                result, error = context.run(function, *args), None
            except BaseException as exception:
                result, error = None, exception
            call_soon(loop, settle, future, result, error)

        self.submit(job)
        return await future

    async def drain(self, timeout: float) -> bool:
        """Wait until no job runs or waits, at most ``timeout`` seconds, and let the threads end.

        Returns whether all jobs have ended. The pool can be used again afterwards.
        """
        if self._pid != os.getpid():
            return True
        self._pid = None
        return await self._crew.drain(timeout)


class _Crew:
    """The threads of one pool in one process, from its first job until it is drained.

    At most one thread at a time is being woken; it wakes the next when it takes a job and more are
    waiting. So views that only compute, which cannot run side by side under the interpreter lock,
    are left to few threads, that do not contend for it, while one that blocks lets the next in.
    Threads are woken in the reverse of the order in which they fell idle.
    """

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self.name = name
        # All that follows is guarded by the lock.
        self.lock = threading.Lock()
        self.jobs: deque[Callable[[], object]] = deque()
        self.idle: list[threading.Lock] = []
        self.threads = 0
        self.unfinished = 0
        self.waking = False
        self.draining = False
        self.when_idle: Callable[[], None] | None = None

    def submit(self, job: Callable[[], object]) -> None:
        with self.lock:
            self.jobs.append(job)
            self.unfinished += 1
            start = not self.waking and self.wake()
        if start:
            self.start(job)

    def wake(self) -> bool:
        """Wake a thread, if any is idle; return whether the caller is to start one instead."""
        if self.idle:
            self.waking = True
            self.idle.pop().release()
            return False
        if self.threads == self.size:
            return False
        self.waking = True
        self.threads += 1
        return True

    def start(self, job: Callable[[], object]) -> None:
        name = f"{self.name}-{self.threads}"
        try:
            threading.Thread(target=self.work, name=name, daemon=True).start()
        except RuntimeError as error:
            with self.lock:
                self.waking = False
                self.threads -= 1
                if not self.threads:
                    self.jobs.remove(job)
                    self.unfinished -= 1
                    raise
            log.warning("There are only %d of %d threads: %s", self.threads, self.size, error)

    def work(self) -> None:
        # Held by the idle thread; who wakes it releases it.
        bell = threading.Lock()
        bell.acquire()
        woken = True
        while True:
            start = False
            with self.lock:
                if woken:
                    self.waking = False
                job = self.jobs.popleft() if self.jobs else None
                if job is not None:
                    start = bool(self.jobs) and not self.waking and self.wake()
                elif self.draining:
                    return
                else:
                    self.idle.append(bell)
            woken = job is None
            if job is None:
                bell.acquire()
                continue
            if start:
                self.start(job)
            try:
                job()
            except BaseException:
                log.exception("A job failed in thread %s", threading.current_thread().name)
            # A view's objects go now, not when the next request comes.
            del job
            with self.lock:
                self.unfinished -= 1
                when_idle = None if self.unfinished else self.when_idle
            if when_idle is not None:
                when_idle()

    async def drain(self, timeout: float) -> bool:
        loop = asyncio.get_running_loop()
        idle = loop.create_future()
        with self.lock:
            self.when_idle = lambda: call_soon(loop, settle, idle, None, None)
            self.draining = True
            unfinished = self.unfinished
            for bell in self.idle:
                bell.release()
            self.idle.clear()
        if unfinished:
            await asyncio.wait([idle], timeout=timeout)
        return not unfinished or idle.done()


def call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args) -> bool:
    """``loop.call_soon_threadsafe`` that returns False where the loop has closed meanwhile."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True


def settle(future: asyncio.Future, result: object, error: BaseException | None) -> None:
    """Give ``future`` its outcome, unless it was cancelled meanwhile."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(carried(error))


def carried(error: BaseException) -> BaseException:
    """``error``, or what stands for it where it cannot be raised on an event loop."""
    # StopIteration cannot be raised into a future, and an exit that one job asked for is not
    # for the event loop to obey.
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    stand_in = RuntimeError(f"{type(error).__name__} was raised in a worker thread")
    stand_in.__cause__ = error
    return stand_in
