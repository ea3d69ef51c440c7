"""The worker threads in which WSGI applications run."""

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class ThreadPool:
    """Runs jobs side by side in at most ``size`` daemon threads.

    A thread is started when a job finds none free, so an unused pool has none. After a fork the
    child starts threads of its own: a server may preload the application.

    ``size`` is the greatest number of threads; ``name`` is what they are called.
    """

    def __init__(self, size: int, name: str = "asgi") -> None:
        self.size = size
        self.name = name
        self._crew = _Crew(size, name)

    def submit(self, job: Callable[[], object]) -> None:
        """Run ``job`` in a thread, after those that were submitted earlier.

        What ``job`` returns is dropped; what it raises is logged.
        """
        crew = self._crew
        if crew.pid != os.getpid():
            crew = self._crew = _Crew(self.size, self.name)
        crew.submit(job)

    async def run(self, function: Callable[..., object], *args: object) -> object:
        """Run ``function(*args)`` in a thread; return what it returns, raise what it raises.

        Cancelling the caller does not stop ``function``.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()

        def job() -> None:
            try:
                result, error = function(*args), None
            except BaseException as exception:
                result, error = None, exception
            call_soon(loop, settle, future, result, error)

        self.submit(job)
        return await future

    async def drain(self, timeout: float) -> bool:
        """Wait until no job runs or waits, at most ``timeout`` seconds, and let the threads end.

        Returns whether all jobs have ended. The pool can be used again afterwards.
        """
        crew, self._crew = self._crew, _Crew(self.size, self.name)
        return crew.pid != os.getpid() or await crew.drain(timeout)


class _Crew:
    """The threads of one pool in one process, from its first job until it is drained."""

    def __init__(self, size: int, name: str) -> None:
        self.pid = os.getpid()
        self.size = size
        self.name = name
        self.threads = 0
        self.unfinished = 0
        self.jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.when_idle: Callable[[], None] | None = None

    def submit(self, job: Callable[[], object]) -> None:
        with self.lock:
            self.unfinished += 1
            short = self.unfinished > self.threads < self.size
            if short:
                self.threads += 1
                number = self.threads
        self.jobs.put(job)
        if short:
            name = f"{self.name}-{number}"
            threading.Thread(target=self.work, name=name, daemon=True).start()

    def work(self) -> None:
        while (job := self.jobs.get()) is not None:
            try:
                job()
            except BaseException:
                log.exception("A job failed in thread %s", threading.current_thread().name)
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
            unfinished, threads = self.unfinished, self.threads
        if unfinished:
            await asyncio.wait([idle], timeout=timeout)
        for _ in range(threads):
            self.jobs.put(None)
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
