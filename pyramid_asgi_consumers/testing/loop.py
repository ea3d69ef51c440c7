"""The event loop that a test's application runs on, in a thread of its own.

:class:`LoopThread` answers how the thread of a test and that of the loop work together. The loop's
thread changes what threads wait for by :meth:`LoopThread.tell` only. A thread of a test waits in
:meth:`LoopThread.wait` only, and there it runs the jobs that applications have for it, those of
all loops, as what it waits for may depend on them. It knows nothing of applications: ``server.py``
has the one that runs on it, ``call.py`` a call of that, and ``threads.py`` says which jobs come to
a thread.
"""

import _socket
import asyncio
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pyramid_asgi_consumers.testing import timeouts

#: What a thread of a test is to run.
Job = Callable[[], object]
#: The jobs of a thread, each with the loop that it is from.
Jobs = deque[tuple["LoopThread", Job]]

# One for all loops: a thread waits for its jobs, too, and those may come from any of them.
_NEWS = threading.Condition()


class _Own(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.jobs: Jobs = deque()


_OWN = _Own()


class LoopThread:
    """Runs an event loop in a thread, from its making until :meth:`close`.

    :meth:`leave` and :meth:`tell` are for all threads, the others for those of tests, of which
    there may be several at once.
    """

    def __init__(self) -> None:
        self.loop = _new_event_loop()
        self._has_ended = False
        self._is_closed = False
        # A task of the application has raised it, and the event loop has obeyed.
        self._interrupt: BaseException | None = None
        # Tasks that went on when they were cancelled at the end.
        self._stubborn: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._work, name="testapp", daemon=True)
        self._thread.start()

    @staticmethod
    def jobs() -> Jobs:
        """Those for the calling thread, which :meth:`wait` of any loop runs there."""
        return _OWN.jobs

    def leave(self, job: Job, jobs: Jobs) -> None:
        """Have the thread of ``jobs`` run ``job``, unless :meth:`close` comes first."""
        self.tell(jobs.append, (self, job))

    def tell(self, change: Callable[..., object], *args: object) -> None:
        """Make a change that threads may wait for."""
        with _NEWS:
            change(*args)
            _NEWS.notify_all()

    def wait(self, until: Callable[[], object], timeout: float | None = None) -> bool:
        """Do the calling thread's jobs until ``until()`` is true; return whether it is.

        Waits at most ``timeout`` seconds, without what the jobs take. Raises what would end a
        server: a ``SystemExit`` or ``KeyboardInterrupt`` of a task that the application has started
        itself.
        """
        jobs = self.jobs()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with _NEWS:
                left = None if deadline is None else deadline - time.monotonic()
                _NEWS.wait_for(lambda: until() or jobs or self._interrupt is not None, left)
                if self._interrupt is not None:
                    interrupt, self._interrupt = self._interrupt, None
                    raise interrupt
                if until():
                    return True
                if not jobs:
                    return False
                source, job = jobs.popleft()
            # Nobody waits any more for what is left from a loop that has ended.
            if source._is_closed:
                continue
            began = time.monotonic()
            job()
            if deadline is not None:
                deadline += time.monotonic() - began

    def wait_for(self, future: "Future[Any]") -> None:
        """Do the calling thread's jobs until ``future`` is done."""
        future.add_done_callback(lambda future: self.tell(bool))
        self.wait(future.done)

    def let_run(self) -> None:
        """Wait until the loop has done what it was about to do."""
        had_its_turn: list[bool] = []
        self.loop.call_soon_threadsafe(self.tell, had_its_turn.append, True)
        self.wait(lambda: had_its_turn, timeouts.TIMEOUT)

    def close(self) -> None:
        """End what still runs, then the loop and its thread.

        Raises TimeoutError where that takes more than 10 seconds.
        """
        self.loop.call_soon_threadsafe(self.loop.stop)
        try:
            has_ended = self.wait(lambda: self._has_ended, 2 * timeouts.TIMEOUT)
        finally:
            self._is_closed = True
        if has_ended:
            self._thread.join()
            left = self._stubborn
        else:
            left = asyncio.all_tasks(self.loop)
        if left:
            raise TimeoutError(f"These tasks of the application do not end: {left}")

    # In the loop's thread.

    def _work(self) -> None:
        try:
            while not self._run():
                pass
            self.loop.run_until_complete(self._end())
        finally:
            self.loop.close()
            self.tell(self._set_ended)

    def _run(self) -> bool:
        """Run the loop until it is stopped; return whether it was, by :meth:`close`."""
        try:
            self.loop.run_forever()
        except BaseException as error:
            self.tell(self._set_interrupt, error)
            return False
        return True

    def _set_interrupt(self, error: BaseException) -> None:
        self._interrupt = error

    def _set_ended(self) -> None:
        self._has_ended = True

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            _, self._stubborn = await asyncio.wait(tasks, timeout=timeouts.TIMEOUT)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    # pytest-socket 0.8 (--disable-socket) forbids sockets by a class in the place of Python's.
    if socket.socket.__module__ == "socket":
        return asyncio.new_event_loop()
    return _UnguardedLoop()


class _UnguardedLoop(asyncio.SelectorEventLoop):
    """Wakes itself through sockets of its own, which lead nowhere else."""

    # Those of asyncio's that it uses, which are not among its annotations.
    _internal_fds: int
    _add_reader: Callable[..., object]
    _read_from_self: Callable[[], None]

    def _make_self_pipe(self) -> None:
        # asyncio makes them by socket.socketpair(), and knows no other way.
        self._ssock, self._csock = _socket.socketpair()
        self._ssock.setblocking(False)
        self._csock.setblocking(False)
        self._internal_fds += 1
        self._add_reader(self._ssock.fileno(), self._read_from_self)
