"""What is published once a transaction has committed, in the order of the commits."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from pyramid_asgi_consumers.channels.forks import at_fork
from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused, PublishUnknown
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

Messages = list[tuple[str, bytes]]

# Seconds that a publisher waits where the backend has no ``timeout``.
TIMEOUT = 5.0

# Seconds after which who waits looks whether somebody is at work.
LOOK = 0.05

# How a failure is logged that nobody else is told of.
COMMITTED = "after the commit"
INTERRUPTING = "by what interrupted another publish"


class _Job:
    # Messages to publish, and what became of them. Who waits holds nothing meanwhile, not even for
    # a moment as with a Future, whose lock a finalizer may find held by the thread it interrupts.
    __slots__ = ("messages", "failure", "results", "tell", "_taken", "_answered")

    def __init__(self, messages: Messages, failure: str | None = None) -> None:
        self.messages = messages
        # How what fails is logged, if it is.
        self.failure = failure
        # One for each message, once it is answered.
        self.results: list[Any] = []
        # Called when there are results, in the thread that has published.
        self.tell: Callable[[], Any] | None = None
        self._taken = threading.Lock()
        self._answered = threading.Lock()
        self._answered.acquire()

    def take(self) -> bool:
        """Whether the caller is the first, of who publishes it and who no longer waits for that."""
        return self._taken.acquire(blocking=False)

    def answer(self, results: list[Any]) -> None:
        self.results = results
        self._answered.release()
        if self.tell is not None:
            with suppress(RuntimeError):  # the event loop is closed
                self.tell()

    def wait(self, seconds: float) -> bool:
        return self._answered.acquire(timeout=max(0.0, seconds))


class _Inside(threading.local):
    # Whether this thread is publishing: what interrupts it cannot wait for that.
    now = False


class Committed:
    """Publishes through ``backend`` what was committed, by a thread where that was on a loop.

    The thread lives while there is something to publish, and the interpreter waits for it. What is
    published meanwhile goes behind, so that nothing overtakes what was committed before; who may
    block publishes all that waits himself where no thread is at work yet.

    A finalizer, or the handler of a signal or of log lines, may publish wherever it interrupts a
    thread. If that is publishing, what it publishes goes behind, and it does not wait for that.

    ``failed(messages)`` is called with what was not published of a commit, in any thread.
    """

    # Nobody waits for a lock here, nor for a thread that has yet to start, which may need what the
    # waiting thread holds: the garbage collector runs finalizers anywhere.

    def __init__(self, backend: Any, failed: Callable[[Messages], object] = bool) -> None:
        self._backend = backend
        self._failed = failed
        self._inside = _Inside()
        self._begin()
        at_fork(self)

    def _begin(self) -> None:
        self._jobs: deque[_Job] = deque()
        # Held by the thread that publishes the jobs. It looks for more when it has released it.
        self._turn = threading.Lock()
        # Held from the start of a thread until that looks for jobs.
        self._called = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether something goes before what is published now."""
        # Look at the jobs first: a job leaves the list only while the turn is held.
        return bool(self._jobs) or self._turn.locked()

    def publish(self, messages: Messages) -> None:
        """Publish what was committed, blocking; a failure is logged.

        Where the backend's ``timeout`` passes before that, it is left to the thread.
        """
        if self._inside.now:
            self._jobs.append(_Job(messages, COMMITTED))
        elif not self.busy:
            try:
                results = self._publish(messages)
            except BaseException:
                self._failed(messages)
                raise
            self._tell(COMMITTED, messages, results)
        elif not self._wait(_Job(messages, COMMITTED)):
            log.warning(
                "%d events that were committed still wait for those of earlier commits",
                len(messages),
            )

    def publish_later(self, messages: Messages) -> None:
        """Have the thread publish what was committed; a failure is logged."""
        self._jobs.append(_Job(messages, COMMITTED))
        self._call()

    def publish_now(self, message: tuple[str, bytes]) -> str:
        """Publish what goes behind all that was committed until now, blocking; return its id.

        That is empty where this interrupts a publish of its own thread: it goes behind that.

        Raises :class:`.PublishRefused` where its turn does not come within the backend's
        ``timeout``, and :class:`.PublishUnknown` where the answer does not.
        """
        if self._inside.now:
            self._jobs.append(_Job([message], INTERRUPTING))
            return ""
        # Nothing here may be slow: it is on the way of each event.
        if not self._jobs and not self._turn.locked():
            return _id(self._publish([message]))
        job = _Job([message])
        self._wait(job)
        return self._result(job)

    async def published_behind(self, message: tuple[str, bytes]) -> str:
        """Do what :meth:`publish_now` does where it is :attr:`busy`, on an event loop.

        What is cancelled before its turn is not published.
        """
        job = _Job([message])
        loop = asyncio.get_running_loop()
        told = loop.create_future()
        job.tell = partial(loop.call_soon_threadsafe, told.set_result, None)
        self._jobs.append(job)
        self._call()
        try:
            await asyncio.wait([told], timeout=self._timeout)
        except asyncio.CancelledError:
            job.take()
            raise
        return self._result(job)

    @property
    def _timeout(self) -> float:
        return getattr(self._backend, "timeout", TIMEOUT)

    def _result(self, job: _Job) -> str:
        # From here on it is either not published any more, or nobody waits for what became of it.
        if job.take():
            raise PublishRefused(
                f"Not published: what was committed before still was not after {self._timeout:g}"
                " seconds"
            )
        if job.results:
            return _id(job.results)
        raise PublishUnknown(
            f"Nobody knows whether it was published: behind what was committed before, no answer"
            f" within {self._timeout:g} seconds"
        )

    def _publish(self, messages: Messages) -> list[Any]:
        inside = self._inside
        try:
            inside.now = True
            return self._backend.publish_many(messages)
        finally:
            inside.now = False
            if self._jobs:
                self._call()

    def _wait(self, job: _Job) -> bool:
        # Whether it is done within the backend's timeout.
        end = time.monotonic() + self._timeout
        self._jobs.append(job)
        self._help()
        while not job.wait(min(LOOK, end - time.monotonic())):
            if time.monotonic() >= end:
                return False
            # What this thread holds, where it was interrupted, may keep another from starting.
            self._help()
        return True

    def _help(self) -> None:
        # Once: this thread has other things to do.
        error = None if self._turn.locked() else self._work_once()
        if self._jobs:
            self._call()
        if error is not None and not isinstance(error, Exception):
            raise error

    def _call(self) -> None:
        if self._turn.locked() or not self._called.acquire(blocking=False):
            return
        try:
            threading.Thread(target=self._work, name="channels-committed").start()
        except RuntimeError:
            # As the interpreter ends it starts no thread: better late than lost.
            self._work()

    def _work(self) -> None:
        self._called.release()
        while self._jobs and not self._turn.locked():
            self._work_once()

    def _work_once(self) -> BaseException | None:
        # All that has come meanwhile in one go: where Redis is away, one timeout for all.
        inside, turn = self._inside, self._turn
        jobs: list[_Job] = []
        error = None
        try:
            # Before it has the turn: what interrupts it then does not wait for it.
            inside.now = True
            if turn.acquire(blocking=False):
                try:
                    error = self._take_turn(jobs)
                finally:
                    turn.release()
        finally:
            inside.now = False
        self._log(jobs, error)
        return error

    def _take_turn(self, jobs: list[_Job]) -> BaseException | None:
        error = None
        try:
            for _ in range(len(self._jobs)):
                job = self._jobs.popleft()
                if job.take():
                    jobs.append(job)
            messages = [message for job in jobs for message in job.messages]
            results = self._backend.publish_many(messages) if messages else []
            results = [result for _, result in zip(messages, results, strict=True)]
        except BaseException as raised:
            error = raised
            unknown = PublishUnknown(f"Nobody knows whether it was published: {Shown(error)}")
            results = [unknown for job in jobs for _ in job.messages]
        for job in jobs:
            its_results, results = results[: len(job.messages)], results[len(job.messages) :]
            job.answer(its_results)
        return error

    def _log(self, jobs: list[_Job], error: BaseException | None) -> None:
        # Others go on meanwhile: who holds up a handler of log lines may wait for his own job.
        failed = [job for job in jobs if any(isinstance(x, ChannelsError) for x in job.results)]
        if failed and self._jobs:
            self._call()
        if error is not None:
            count = sum(len(job.messages) for job in jobs)
            log.error("Publishing %d events after the commit failed", count, exc_info=error)
            for job in jobs:
                self._failed(job.messages)
            return
        for job in failed:
            if job.failure is not None:
                self._tell(job.failure, job.messages, job.results)

    def _tell(self, failure: str, messages: Messages, results: list[Any]) -> None:
        # One line, however much a commit has published: an outage fails all of it.
        failed = [
            (message, result)
            for message, result in zip(messages, results, strict=True)
            if isinstance(result, ChannelsError)
        ]
        if not failed:
            return
        (name, _), result = failed[0]
        log.error(
            "Not published on %s %s: %s (%d of %d events)",
            Shown(name),
            failure,
            Shown(result),
            len(failed),
            len(messages),
        )
        self._failed([message for message, _ in failed])

    def before_fork(self) -> None:
        """There is nothing to hold still."""

    def after_fork(self, in_child: bool) -> None:
        """Leave it to the parent's thread to publish; the child has none."""
        if in_child:
            self._jobs.clear()
            self._begin()


def _id(results: list[Any]) -> str:
    (result,) = results
    if isinstance(result, ChannelsError):
        raise result
    return result
