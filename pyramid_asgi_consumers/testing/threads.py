"""Which thread runs what the application would leave to worker threads: that of the test.

The application's copy has these in the place of its own. A job goes to the thread that has made the
call which the job belongs to, and :meth:`.LoopThread.wait` runs it there. So what a test has set up
in its thread is there for its views: a transaction, thread-locals, a context variable.
"""

from collections.abc import Callable
from typing import Any

from pyramid_asgi_consumers.handshake.lanes import Lane
from pyramid_asgi_consumers.testing.call import current_call
from pyramid_asgi_consumers.wsgi.threads import Job, ThreadPool


class CallingThreads(ThreadPool):
    """Gives each job to the test's thread that has made the call (its ``jobs``)."""

    def submit(self, job: Callable[[], object]) -> None:
        call = current_call.get()
        call.thread.leave(job, call.jobs)

    async def drain(self, timeout: float) -> bool:
        # That thread waits for them itself.
        return True


class CallingLane(Lane):
    """Leaves jobs to the threads of its pool: no call waits for another's."""

    async def run(self, function: Callable[..., object], *args: object, left: Any = None) -> object:
        return await self.pool.run(function, *args)

    def submit(self, job: Job) -> Callable[[], bool]:
        self.pool.submit(job)
        # The thread of the test comes to it, whatever has become of the connection.
        return lambda: False
