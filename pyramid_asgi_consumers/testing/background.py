"""What runs beside a test: an application, its lifespan and its server, on an event loop.

The lifespan is run here, around the server, so that each server starts and stops an application in
the same way, and what goes wrong is raised in the test. Which server it is, and where the event
loop runs, is the caller's to say (``live_servers.py``).
"""

import asyncio
import concurrent.futures
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any, cast

from pyramid_asgi_consumers.lifespan import running
from pyramid_asgi_consumers.quirks import TOLD, Told
from pyramid_asgi_consumers.wsgi.threads import call_soon

#: Seconds in which an application is to start, and in which it is to stop.
TIMEOUT = 20.0

#: Serves an application on a socket that listens, which it takes over, until the event is set.
Serve = Callable[[Any, socket.socket, asyncio.Event], Awaitable[None]]
#: What is to run on an event loop in another thread.
Main = Callable[[], Coroutine[Any, Any, None]]
#: Runs it, and gives the future its outcome; returns the thread, if that ends then.
Run = Callable[[Main, "Future[None]"], threading.Thread | None]


class Background:
    """Runs ``app``, its lifespan and its server, on an event loop in another thread.

    :meth:`start` and :meth:`stop` are for the thread of the test. An interrupt may raise in it at
    any moment: so :meth:`stop` may find that nothing has been started.
    """

    _task: "asyncio.Task[Any]"

    def __init__(self, app: Any, serve: Serve, listener: socket.socket) -> None:
        self.app = app
        self.serve = serve
        self.listener = listener
        # Set when the application has started, or will not.
        self._start_ended = threading.Event()
        self._ended: Future[None] = Future()
        self._ended.add_done_callback(lambda ended: self._start_ended.set())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._has_started = False
        self._is_stopped = False
        self._told = Told()

    def start(self, run: Run) -> None:
        """Start by ``run``; return when the application has started, raise why it has not."""
        self._thread = run(self._main, self._ended)
        if not self._start_ended.wait(TIMEOUT):
            raise TimeoutError(f"The application did not start within {TIMEOUT} s")
        if not self._has_started:
            self._ended.result()

    async def _main(self) -> None:
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        # The test may be interrupted before it comes to this.
        if self._is_stopped:
            return
        async with running(self.app) as state:
            self._has_started = True
            self._start_ended.set()
            served = _with_state(self.app, state, self._told)
            await self.serve(served, self.listener, self._stopping)

    def stop(self) -> None:
        """Stop; return when the application has. Raise what went wrong since it had started."""
        self._is_stopped = True
        if self._loop is None:
            return
        call_soon(self._loop, self._stop_on_loop)
        if not concurrent.futures.wait([self._ended], TIMEOUT).done:
            raise TimeoutError(
                f"The application did not stop within {TIMEOUT} s; these tasks of its do not end:"
                f" {asyncio.all_tasks(self._loop)}"
            )
        if self._thread is not None:
            self._thread.join()
        if self._has_started:
            self._ended.result()

    def _stop_on_loop(self) -> None:
        if self._has_started:
            self._told.begin()
            self._stopping.set()
        else:
            self._task.cancel()


def _with_state(
    app: Callable[..., Any], state: Mapping[str, Any], told: Told
) -> Callable[..., Any]:
    """``app`` for a server, with the ``state`` of its lifespan, which runs already.

    It hears by ``told`` that the server stops.
    """

    async def served(scope: dict[str, Any], receive: Any, send: Any) -> None:
        TOLD.set(told)
        if scope["type"] == "lifespan":
            # Hypercorn cannot do without.
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        else:
            await app({**scope, "state": dict(state)}, receive, send)

    return served


def in_a_thread(main: Main, ended: "Future[None]") -> threading.Thread:
    """Run ``main`` on an event loop of its own, in a thread that ends with it."""

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=work, name="serving", daemon=True)
    thread.start()
    return thread
