"""The server between a test and its application: an event loop in a thread of its own."""

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from webtest import lint

from pyramid_asgi_consumers.application import ASGIApplication
from pyramid_asgi_consumers.connection import Limit
from pyramid_asgi_consumers.lifespan import Lifespan
from pyramid_asgi_consumers.testing import timeouts
from pyramid_asgi_consumers.testing.call import Call
from pyramid_asgi_consumers.testing.loop import new_event_loop
from pyramid_asgi_consumers.testing.threads import CallingLane, CallingThreads
from pyramid_asgi_consumers.testing.watched import WatchedConsumers, watched_application


class Server:
    """Serves ``app``, in an event loop's own thread, to any number of threads.

    What is to run in a worker thread runs in the one that has made the call, while that waits.
    """

    def __init__(self, app: ASGIApplication, with_lint: bool) -> None:
        wsgi_app = lint.middleware(app.wsgi_app) if with_lint else app.wsgi_app
        #: A copy: other threads, other ``TestApp``\\ s and servers may use the application too.
        self.app = copy.copy(app)
        self.app.bridge = copy.copy(app.bridge)
        self.app.bridge.wsgi_application = watched_application(wsgi_app)
        self.app.handshakes = copy.copy(app.handshakes)
        self.app.handshakes.wsgi_app = watched_application(wsgi_app)
        self.app.bridge.pool = self.app.handshakes.pool = pool = CallingThreads(1)
        self.app.handshakes.handshakes = self.app.handshakes.calls = CallingLane(pool, 1, "tests")
        self.app.mapper = WatchedConsumers(app.mapper)
        self.app.limit = Limit(app.limit.most)
        self.app._endpoints = {}
        self.app.lifespan = Lifespan(app.registry, app.lifespan.factories, self.app.bridge.drain)
        self.users = 0
        self.ended = False
        #: What the event loop has obeyed: a task of the application has raised it.
        self.interrupt: BaseException | None = None
        #: Tasks that went on when they were cancelled at the end.
        self.stubborn: set[asyncio.Task[Any]] = set()
        self.news = threading.Condition()
        self._jobs: dict[int, deque[Callable[[], object]]] = {}
        self.loop = new_event_loop()
        self._thread = threading.Thread(target=self._work, name="testapp", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._serve():
                pass
            self.loop.run_until_complete(self._end())
        finally:
            self.loop.close()
            self.tell(self._has_ended)

    def _serve(self) -> bool:
        try:
            self.loop.run_forever()
        except BaseException as error:
            self.tell(self._is_interrupted, error)
            return False
        return True

    def _is_interrupted(self, error: BaseException) -> None:
        self.interrupt = error

    def _has_ended(self) -> None:
        self.ended = True

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            _, self.stubborn = await asyncio.wait(tasks, timeout=timeouts.TIMEOUT)
        await self.loop.shutdown_asyncgens()
        await self.loop.shutdown_default_executor()

    def jobs(self) -> deque[Callable[[], object]]:
        """Those for the calling thread."""
        return self._jobs.setdefault(threading.get_ident(), deque())

    def tell(self, change: Callable[..., object], *args: object) -> None:
        """Make a change that threads may wait for."""
        with self.news:
            change(*args)
            self.news.notify_all()

    def wait(self, until: Callable[[], object], timeout: float | None = None) -> bool:
        """Do the calling thread's jobs until ``until()`` is true; return whether it is.

        Waits at most ``timeout`` seconds, without what the jobs take. Raises what would end a
        server: a ``SystemExit`` or ``KeyboardInterrupt`` of a task that the application has started
        itself.
        """
        jobs = self.jobs()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self.news:
                left = None if deadline is None else deadline - time.monotonic()
                self.news.wait_for(lambda: until() or jobs or self.interrupt is not None, left)
                if self.interrupt is not None:
                    interrupt, self.interrupt = self.interrupt, None
                    raise interrupt
                if until():
                    return True
                if not jobs:
                    return False
                job = jobs.popleft()
            began = time.monotonic()
            job()
            if deadline is not None:
                deadline += time.monotonic() - began

    def run(self, coroutine: Coroutine[Any, Any, Any], environ: dict[str, Any]) -> Any:
        """Run ``coroutine`` on the loop; return what it returns, raise what it raises."""
        call = Call(self, {}, environ)
        call.start(coroutine)
        self.wait(lambda: call.done)
        return call.task.result()

    def close(self) -> None:
        """End what still runs, then the loop and its thread.

        Raises TimeoutError where that takes more than 10 seconds.
        """
        self.loop.call_soon_threadsafe(self.loop.stop)
        if self.wait(lambda: self.ended, 2 * timeouts.TIMEOUT):
            self._thread.join()
            left = self.stubborn
        else:
            left = asyncio.all_tasks(self.loop)
        if left:
            raise TimeoutError(f"These tasks of the application do not end: {left}")
