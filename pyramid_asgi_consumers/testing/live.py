"""Serves an application within the process of a test, for browsers and other real clients."""

import asyncio
import atexit
import concurrent.futures
import inspect
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyramid_asgi_consumers.lifespan import running
from pyramid_asgi_consumers.quirks.daphne import drain
from pyramid_asgi_consumers.quirks.hypercorn_stopping import cancel_others
from pyramid_asgi_consumers.wsgi.threads import call_soon

HOST = "127.0.0.1"

#: Seconds in which an application is to start, and in which it is to stop.
TIMEOUT = 20.0

# So many seconds requests and consumers have to finish when the server stops. Pages that are open
# in a browser may have streams without an end.
GRACE = 1

#: Serves an application on a socket that listens, which it takes over, until the event is set.
Serve = Callable[[Any, socket.socket, asyncio.Event], Awaitable[None]]
#: What is to run on an event loop in another thread.
Main = Callable[[], Coroutine[Any, Any, None]]
#: Runs it, and gives the future its outcome; returns the thread, if that ends then.
Run = Callable[[Main, "Future[None]"], threading.Thread | None]


@dataclass(frozen=True)
class LiveServer:
    """A server that :func:`serving` has started."""

    #: Where it listens.
    port: int

    @property
    def url(self) -> str:
        """The URL of the application, without a slash at its end."""
        return f"http://{HOST}:{self.port}"

    @property
    def websocket_url(self) -> str:
        """The same for websockets."""
        return f"ws://{HOST}:{self.port}"


@contextmanager
def serving(app: Callable[..., Any], server: str = "uvicorn") -> Iterator[LiveServer]:
    """Serve ``app`` while the block runs: ``with serving(app) as server: page.goto(server.url)``.

    ``app`` is what ``config.make_asgi_app()`` returned, or any other ASGI application; ``server``
    is ``"uvicorn"``, ``"hypercorn"`` or ``"daphne"``, which must be installed. It listens on a free
    port of 127.0.0.1, and runs in a thread of this process: the application is the very object that
    the test has, with what its fixtures have patched. Views run in worker threads, as in
    production, and not in that of the test as with ``TestApp``: a database in memory must be one
    that threads share.

    The lifespan runs around the block. At its end, whether or not it raises, requests and consumers
    may finish and websockets are closed; what is left after one second is cancelled.

    Raises ValueError for a server that is not known, TypeError for what is no ASGI application,
    ImportError where the server is not installed, :class:`.LifespanError` where the application
    does not start or stop, TimeoutError where it does not within 20 seconds, and what the server
    itself raises.
    """
    if server not in _SERVERS:
        known = ", ".join(f'"{name}"' for name in sorted(_SERVERS))
        raise ValueError(f"serving: server must be one of {known}, not {server!r}")
    if not any(map(inspect.iscoroutinefunction, (app, getattr(app, "__call__", None)))):  # noqa: B004
        raise TypeError(
            "serving: app must be an ASGI application, as config.make_asgi_app() returns it, not"
            f" {app!r}"
        )
    try:
        serve, run = _SERVERS[server]()
    except ModuleNotFoundError as error:
        raise ImportError(
            f'serving needs {server}: pip install "pyramid_asgi_consumers[{server}]"'
        ) from error
    with socket.create_server((HOST, 0)) as listener:
        live = LiveServer(listener.getsockname()[1])
        background = _Background(app, serve, listener)
        try:
            background.start(run)
            yield live
        finally:
            background.stop()


class _Background:
    """Runs ``app``, its lifespan and its server, on an event loop in another thread."""

    def __init__(self, app: Any, serve: Serve, listener: socket.socket) -> None:
        self.app = app
        self.serve = serve
        self.listener = listener
        # Set when the application has started, or will not.
        self._settled = threading.Event()
        self._ended: Future[None] = Future()
        self._ended.add_done_callback(lambda ended: self._settled.set())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._has_started = False
        self._is_stopped = False

    def start(self, run: Run) -> None:
        """Start by ``run``; return when the application has started, raise why it has not."""
        self._thread = run(self._main, self._ended)
        if not self._settled.wait(TIMEOUT):
            raise TimeoutError(f"The application did not start within {TIMEOUT} s")
        if not self._has_started:
            self._ended.result()

    async def _main(self) -> None:
        self._task = asyncio.current_task()
        self._stopping = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        # The test may be interrupted before it comes to this.
        if self._is_stopped:
            return
        async with running(self.app) as state:
            self._has_started = True
            self._settled.set()
            await self.serve(_with_state(self.app, state), self.listener, self._stopping)

    def stop(self) -> None:
        """Stop; return when the application has. Raise what went wrong since it had started."""
        self._is_stopped = True
        if self._loop is None:
            return
        call_soon(self._loop, self._leave)
        if not concurrent.futures.wait([self._ended], TIMEOUT).done:
            raise TimeoutError(
                f"The application did not stop within {TIMEOUT} s; these tasks of its do not end:"
                f" {asyncio.all_tasks(self._loop)}"
            )
        if self._thread is not None:
            self._thread.join()
        if self._has_started:
            self._ended.result()

    def _leave(self) -> None:
        if self._has_started:
            self._stopping.set()
        else:
            self._task.cancel()


def _with_state(app: Callable[..., Any], state: Mapping[str, Any]) -> Callable[..., Any]:
    """``app`` for a server, with the ``state`` of its lifespan, which runs already."""

    async def served(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            # Hypercorn cannot do without.
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        else:
            await app({**scope, "state": dict(state)}, receive, send)

    return served


# The event loops.


def _in_a_thread(main: Main, ended: "Future[None]") -> threading.Thread:
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


class _Reactor:
    """Twisted's reactor in a thread of its own: it can be run only once in a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, main: Main, ended: "Future[None]") -> None:
        from twisted.internet import reactor

        with self._lock:
            if self._thread is None:
                self._start(reactor)

        async def work() -> None:
            try:
                await main()
            except BaseException as error:
                ended.set_exception(error)
            else:
                ended.set_result(None)

        asyncio.run_coroutine_threadsafe(work(), reactor._asyncioEventloop)

    def _start(self, reactor: Any) -> None:
        if reactor.running:
            raise RuntimeError(
                "serving: Daphne needs Twisted's reactor, which somebody else runs in this process"
            )
        has_begun: Future[None] = Future()
        reactor.callWhenRunning(has_begun.set_result, None)

        def work() -> None:
            try:
                reactor.run(installSignalHandlers=False)
            except BaseException as error:
                has_begun.set_exception(error)

        thread = threading.Thread(target=work, name="serving-reactor", daemon=True)
        thread.start()
        has_begun.result()
        self._thread = thread
        atexit.register(self._stop, reactor)

    def _stop(self, reactor: Any) -> None:
        reactor.callFromThread(reactor.stop)
        self._thread.join(TIMEOUT)


_reactor = _Reactor()


# The servers.


def _uvicorn() -> tuple[Serve, Run]:
    from uvicorn import Config, Server

    async def serve(app: Any, listener: socket.socket, stopping: asyncio.Event) -> None:
        # Logging is the test's.
        config = Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=GRACE)
        server = Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await _first(task, stopping)
        server.should_exit = True
        await task

    return serve, _in_a_thread


def _hypercorn() -> tuple[Serve, Run]:
    from hypercorn.asyncio import serve as serve_hypercorn
    from hypercorn.config import Config

    async def serve(app: Any, listener: socket.socket, stopping: asyncio.Event) -> None:
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.graceful_timeout = GRACE
        before = asyncio.all_tasks()
        server = asyncio.create_task(
            serve_hypercorn(app, config, shutdown_trigger=stopping.wait, mode="asgi")
        )
        await _first(server, stopping)
        # On Python 3.12 and later Hypercorn 0.18 waits for all connections, without a bound.
        await asyncio.wait([server], timeout=GRACE + 0.5)
        if server.done():
            server.result()
        else:
            await cancel_others(before)

    return serve, _in_a_thread


async def _first(task: "asyncio.Task[None]", event: asyncio.Event) -> None:
    """Wait until ``task`` has ended, or ``event`` is set."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _daphne() -> tuple[Serve, Run]:
    from daphne.server import Server
    from twisted.internet import reactor

    class Daphne(Server):
        """Runs side by side with others of its kind, on a reactor that goes on without it."""

        has_ended = False

        def listen_success(self, port: Any) -> None:
            self.port = port

        def application_checker(self) -> None:
            if not self.has_ended:
                super().application_checker()

        def timeout_checker(self) -> None:
            if not self.has_ended:
                super().timeout_checker()

    async def serve(app: Any, listener: socket.socket, stopping: asyncio.Event) -> None:
        endpoint = f"fd:fileno={listener.detach()}"
        server = Daphne(app, [endpoint], False, application_close_timeout=GRACE)
        # It is not to run the reactor, nor to do anything when that stops.
        server.abort_start = True
        server.run()
        kill = ("before", server.kill_all_applications, (), {})
        reactor.removeSystemEventTrigger(("shutdown", kill))
        await stopping.wait()
        server.port.stopListening()
        await drain(server, reactor)
        server.has_ended = True
        for connection in reactor.getReaders():
            if getattr(connection, "server", None) is server.port:
                connection.abortConnection()

    return serve, _reactor.run


_SERVERS = {"daphne": _daphne, "hypercorn": _hypercorn, "uvicorn": _uvicorn}
