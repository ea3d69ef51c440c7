"""The servers that ``serving()`` can serve with: how each is run, told to stop, and where.

A server gets a socket that listens and runs on an event loop until an event is set, then it has a
short time to finish. It installs no signal handlers, starts no process and runs no lifespan:
``background.py`` does that.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from pyramid_asgi_consumers.quirks.daphne import drain
from pyramid_asgi_consumers.quirks.hypercorn_stopping import cancel_others
from pyramid_asgi_consumers.testing.background import Run, Serve, in_a_thread
from pyramid_asgi_consumers.testing.reactor import REACTOR

# So many seconds requests and consumers have to finish when the server stops. Pages that are open
# in a browser may have streams without an end.
GRACE = 1


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

    return serve, in_a_thread


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

    return serve, in_a_thread


async def _first(task: "asyncio.Task[None]", event: asyncio.Event) -> None:
    """Wait until ``task`` has ended, or ``event`` is set."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _daphne() -> tuple[Serve, Run]:
    from daphne.server import Server
    from twisted.internet import reactor as installed

    # Its annotations are those of interfaces.
    reactor: Any = installed

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
        kill: tuple[Any, ...] = ("before", server.kill_all_applications, (), {})
        reactor.removeSystemEventTrigger(("shutdown", kill))
        await stopping.wait()
        server.port.stopListening()
        await drain(server, reactor)
        server.has_ended = True
        for connection in reactor.getReaders():
            if getattr(connection, "server", None) is server.port:
                connection.abortConnection()

    return serve, REACTOR.run


#: Those that there are. Each function imports its server: only that must be installed.
SERVERS: dict[str, Callable[[], tuple[Serve, Run]]] = {
    "daphne": _daphne,
    "hypercorn": _hypercorn,
    "uvicorn": _uvicorn,
}
