"""Divides one pool of threads between handshakes, ``run_in_request`` calls and repeated handshakes.

None can take all of the threads, however slow it is. Pages have a pool of their own.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial

from pyramid_asgi_consumers.exceptions import ClientDisconnected
from pyramid_asgi_consumers.wsgi.threads import Crew, Crowd, Job, ThreadPool, job_for

# Seconds in which a job may end before anybody watches whether its client leaves.
WATCH_AFTER = 0.05


class Lane:
    """A share of ``pool``: at most ``most`` of its threads, and a queue of its own.

    ``pool`` gets all its jobs through lanes. Where two of N threads have N - N // 2 each, half of
    the threads are free for either, whatever the jobs of the other do; of a single thread they
    take turns. Within a lane jobs start in the order in which they came. ``purpose`` is as that of
    a pool.
    """

    def __init__(self, pool: ThreadPool, most: int, purpose: str) -> None:
        self.pool = pool
        self.most = most
        self.purpose = purpose
        self._queue: _Queue | None = None

    async def run(
        self,
        function: Callable[..., object],
        *args: object,
        left: Callable[[], Awaitable[bool]] | None = None,
    ) -> object:
        """Run ``function(*args)`` in a thread; return what it returns, raise what it raises.

        Once it has begun, cancelling the caller does not stop it; before, it never begins.
        ``left()`` is awaited while ``function`` waits for a thread, and may be cancelled. If it
        returns True before ``function`` begins, that never begins, and
        :class:`.ClientDisconnected` is raised.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        withdraw = self.submit(job_for(future, function, *args))
        watch: asyncio.Future[bool] | None = None
        try:
            if left is not None:
                await asyncio.wait((future,), timeout=WATCH_AFTER)
                if not future.done():
                    watch = asyncio.ensure_future(left())
                    await asyncio.wait((future, watch), return_when=asyncio.FIRST_COMPLETED)
                    if not future.done() and watch.result() and withdraw():
                        raise ClientDisconnected("The client left before its turn came")
            return await future
        except asyncio.CancelledError:
            withdraw()
            future.cancel()
            raise
        finally:
            if watch is not None:
                watch.cancel()
                await asyncio.wait((watch,))

    def submit(self, job: Job) -> Callable[[], bool]:
        """Run ``job`` in a thread, when its turn comes.

        Returns what has it never begin; that returns False where it has begun. Raises RuntimeError
        where there is not one thread.
        """
        crew = self.pool.crew()
        if self._queue is None or self._queue.crew is not crew:
            self._queue = _Queue(crew, self.most, self.purpose)
        self._queue.submit(job)
        return partial(self._queue.withdraw, job)


class _Queue:
    """The jobs of one lane that wait for ``crew``, and how many turns the lane has there.

    A turn is a job of the crew, which does the lane's oldest. There are never more than ``most``,
    and while jobs wait there is one at least. If jobs wait when a turn ends, its thread adds the
    next turn at the end of the crew's jobs. The thread looks there next, so nobody needs to wake
    it; older turns of other lanes come first.
    """

    def __init__(self, crew: Crew, most: int, purpose: str) -> None:
        self.crew = crew
        self.most = most
        self.crowd = Crowd(self, most, purpose)
        # Guards what follows.
        self.lock = threading.Lock()
        self.jobs: OrderedDict[Job, None] = OrderedDict()
        self.turns = 0
        self.eased = 0

    def submit(self, job: Job) -> None:
        with self.lock:
            self.jobs[job] = None
            full = self.turns == self.most
            if not full:
                self.turns += 1
        if full or self.crew.is_busy():
            self.crowd.notice()
        if full:
            return
        try:
            self.crew.submit(self.turn)
        except RuntimeError:
            with self.lock:
                self.turns -= 1
            self.withdraw(job)
            raise

    def withdraw(self, job: Job) -> bool:
        """Have ``job`` never begin; return whether it has not."""
        with self.lock:
            return self.jobs.pop(job, self) is None

    def turn(self) -> None:
        with self.lock:
            job = self.jobs.popitem(last=False)[0] if self.jobs else None
        if job is not None:
            job()
        # A request's objects go now, not when the next turn comes.
        del job
        with self.lock:
            if not self.jobs:
                self.turns -= 1
                self.eased += 1
                return
        self.crew.jobs.append(self.turn)
