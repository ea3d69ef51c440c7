"""What is published once a transaction has committed, in the order of the commits."""

import asyncio
import logging
import threading
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from typing import Any

from pyramid_asgi_consumers.channels.forks import at_fork
from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused, PublishUnknown
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

Messages = list[tuple[str, bytes]]

# Seconds that a publisher waits where the backend has no ``timeout``.
TIMEOUT = 5.0


class _Job:
    # Messages to publish; the future, if any, of who waits for the results.
    __slots__ = ("messages", "results", "committed")

    def __init__(self, messages: Messages, waits: bool, committed: bool) -> None:
        self.messages = messages
        self.results: Future[list[Any]] | None = Future() if waits else None
        self.committed = committed

    def is_wanted(self) -> bool:
        return self.results is None or self.results.set_running_or_notify_cancel()


class _Inside(threading.local):
    # Whether this thread is at work here: then it cannot wait for that.
    now = False


class Committed:
    """Publishes through ``backend`` what was committed, by a thread where that was on a loop.

    The thread lives while there is something to publish, and the interpreter waits for it. What is
    published meanwhile goes through it as well, so that nothing overtakes what was committed
    before. Only what is published in that thread, by a handler of its log lines or by a finalizer,
    does not wait for it.
    """

    # No lock is waited for here: the garbage collector may run a finalizer that publishes anywhere.

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._inside = _Inside()
        self._begin()
        at_fork(self)

    def _begin(self) -> None:
        self._jobs: deque[_Job] = deque()
        # Held by the thread that is at work.
        self._turn = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether something goes before what is published now."""
        # In this order: what is no job any more is under way until the turn is over.
        return (bool(self._jobs) or self._turn.locked()) and not self._inside.now

    def publish(self, messages: Messages) -> None:
        """Publish what was committed, blocking; a failure is logged.

        Where the backend's ``timeout`` passes before that, it is left to the thread.
        """
        if not self.busy:
            self._log(messages, self._backend.publish_many(messages))
            return
        job = _Job(messages, waits=True, committed=True)
        self._put(job)
        try:
            job.results.result(self._timeout)
        except NotInTime:
            log.warning(
                "%d events that were committed still wait for those of earlier commits",
                len(messages),
            )

    def publish_later(self, messages: Messages) -> None:
        """Have the thread publish what was committed; a failure is logged."""
        self._put(_Job(messages, waits=False, committed=True))

    def publish_behind(self, message: tuple[str, bytes]) -> str:
        """Publish what goes behind all that was committed until now, blocking; return its id.

        Raises :class:`.PublishRefused` where its turn does not come within the backend's
        ``timeout``, and :class:`.PublishUnknown` where the answer does not.
        """
        job = _Job([message], waits=True, committed=False)
        self._put(job)
        try:
            return _id(job.results.result(self._timeout))
        except NotInTime:
            return self._given_up(job)

    async def published_behind(self, message: tuple[str, bytes]) -> str:
        """Do what :meth:`publish_behind` does, on an event loop.

        What is cancelled before its turn is not published.
        """
        job = _Job([message], waits=True, committed=False)
        self._put(job)
        try:
            await asyncio.wait([asyncio.wrap_future(job.results)], timeout=self._timeout)
        except asyncio.CancelledError:
            job.results.cancel()
            raise
        return self._given_up(job)

    @property
    def _timeout(self) -> float:
        return getattr(self._backend, "timeout", TIMEOUT)

    def _given_up(self, job: _Job) -> str:
        # From here on it is either not published any more, or nobody waits for what became of it.
        if job.results.cancel():
            raise PublishRefused(
                f"Not published: what was committed before still was not after {self._timeout:g}"
                " seconds"
            )
        if job.results.done():
            return _id(job.results.result())
        raise PublishUnknown(
            f"Nobody knows whether it was published: behind what was committed before, no answer"
            f" within {self._timeout:g} seconds"
        )

    def _put(self, job: _Job) -> None:
        before, self._inside.now = self._inside.now, True
        try:
            self._jobs.append(job)
            if self._turn.acquire(blocking=False):
                try:
                    threading.Thread(target=self._work, name="channels-committed").start()
                except RuntimeError:
                    # As the interpreter ends it starts no thread: better late than lost.
                    self._work()
        finally:
            self._inside.now = before

    def _work(self) -> None:
        self._inside.now = True
        jobs, turn = self._jobs, self._turn
        has_turn = True
        while has_turn:
            try:
                while jobs:
                    self._publish([jobs.popleft() for _ in range(len(jobs))])
            finally:
                turn.release()
            # Who came in between has found the turn taken.
            has_turn = bool(jobs) and turn.acquire(blocking=False)

    def _publish(self, jobs: list[_Job]) -> None:
        # All that has come meanwhile in one go: where Redis is away, one timeout for all.
        jobs = [job for job in jobs if job.is_wanted()]
        messages = [message for job in jobs for message in job.messages]
        if not messages:
            return
        try:
            results = [
                result
                for _, result in zip(messages, self._backend.publish_many(messages), strict=True)
            ]
        except BaseException as error:
            unknown = PublishUnknown(f"Nobody knows whether it was published: {Shown(error)}")
            _settle(jobs, [unknown] * len(messages))
            log.exception("Publishing %d events after the commit failed", len(messages))
            return
        for job, its_results in _settle(jobs, results):
            if job.committed:
                self._log(job.messages, its_results)

    def _log(self, messages: Messages, results: list[Any]) -> None:
        for (name, _), result in zip(messages, results, strict=True):
            if isinstance(result, ChannelsError):
                log.error("Not published on %s after the commit: %s", Shown(name), Shown(result))

    def before_fork(self) -> None:
        """There is nothing to hold still."""

    def after_fork(self, in_child: bool) -> None:
        """Leave it to the parent's thread to publish; the child has none."""
        if in_child:
            self._jobs.clear()
            self._begin()


def _settle(jobs: list[_Job], results: list[Any]) -> list[tuple[_Job, list[Any]]]:
    # Tell each what became of its messages.
    settled = []
    for job in jobs:
        its_results, results = results[: len(job.messages)], results[len(job.messages) :]
        if job.results is not None:
            job.results.set_result(its_results)
        settled.append((job, its_results))
    return settled


def _id(results: list[Any]) -> str:
    (result,) = results
    if isinstance(result, ChannelsError):
        raise result
    return result
