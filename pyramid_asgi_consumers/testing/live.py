""":func:`serving`: an application in the process of a test, for browsers and other real clients.

``background.py`` runs the application, its lifespan and a server beside the test;
``live_servers.py`` has the servers, and ``reactor.py`` the event loop that Daphne needs.
"""

import inspect
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyramid_asgi_consumers.testing.background import Background
from pyramid_asgi_consumers.testing.live_servers import SERVERS

HOST = "127.0.0.1"


@dataclass(frozen=True)
class LiveServer:
    """A server that :func:`serving` has started, on a port of this machine."""

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
    if server not in SERVERS:
        known = ", ".join(f'"{name}"' for name in sorted(SERVERS))
        raise ValueError(f"serving: server must be one of {known}, not {server!r}")
    if not any(map(inspect.iscoroutinefunction, (app, getattr(app, "__call__", None)))):  # noqa: B004
        raise TypeError(
            "serving: app must be an ASGI application, as config.make_asgi_app() returns it, not"
            f" {app!r}"
        )
    try:
        serve, run = SERVERS[server]()
    except ModuleNotFoundError as error:
        raise ImportError(
            f'serving needs {server}: pip install "pyramid_asgi_consumers[{server}]"'
        ) from error
    with socket.create_server((HOST, 0)) as listener:
        live = LiveServer(listener.getsockname()[1])
        background = Background(app, serve, listener)
        try:
            background.start(run)
            yield live
        finally:
            background.stop()
