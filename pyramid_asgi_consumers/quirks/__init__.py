"""What is done differently for single servers, in a file for each of them.

``specification.py`` has what the ASGI specification says of all of them, as the class
:class:`.Server`: what the package asks of the server of a connection. ``daphne.py``,
``granian.py``, ``hypercorn.py`` and ``uvicorn.py`` have a class each that says what that server
does otherwise, with the version on which it was seen. Gunicorn's ``-k asgi`` has none: its file
tells how it stops. How servers
describe a request differently is read in ``wsgi.environ``, where each is named with its version.
``uvloop.py`` is about the event loop of several of them, ``hypercorn_stopping.py`` about the end
of Hypercorn where this package runs it.

The proofs are in ``tests/quirks``, a file per server too, and in ``tests/servers``, which run the
servers themselves: ``test_around_servers.py`` with others around the application.

:func:`served_by` recognises the server, once for each connection; :func:`before_shutdown`,
:func:`drain`, :func:`patience` and :func:`waits_for_ever` are about the end of an event loop, where
there is no connection to ask. :func:`stops_of` and :func:`is_stopping` tell of its beginning, and
``told.py`` where this package runs the server itself.
"""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from pyramid_asgi_consumers.quirks import daphne, granian, gunicorn, hypercorn, uvicorn
from pyramid_asgi_consumers.quirks.daphne import is_stopping
from pyramid_asgi_consumers.quirks.hypercorn import patience, waits_for_ever
from pyramid_asgi_consumers.quirks.specification import (
    AT_ONCE,
    CLIENT_WAS_FASTER,
    PLAIN,
    SERVED_BY,
    Leave,
    Server,
    Stop,
)
from pyramid_asgi_consumers.quirks.told import TOLD, Told
from pyramid_asgi_consumers.quirks.uvicorn import at_once, drain, put_before
from pyramid_asgi_consumers.quirks.uvloop import is_of_a_closed_transport

__all__ = [
    "CLIENT_WAS_FASTER",
    "PLAIN",
    "AT_ONCE",
    "SERVED_BY",
    "Leave",
    "TOLD",
    "Server",
    "Stop",
    "Told",
    "at_once",
    "before_shutdown",
    "drain",
    "is_of_a_closed_transport",
    "is_stopping",
    "patience",
    "put_before",
    "served_by",
    "stops_of",
    "waits_for_ever",
]


def served_by(scope: Mapping[str, Any], send: Any) -> Server:
    """What serves the connection of ``scope``.

    Middleware may have copied the scope and wrapped ``send``, and may run the application in a
    task of its own. An application that this one is mounted in may have found it already.
    """
    server = scope.get(SERVED_BY)
    if server is not None:
        return server
    if daphne.serves(scope):
        return daphne.server_of(scope, send)
    if scope["type"] == "websocket":
        # Only Granian offers this to a websocket.
        if "http.response.pathsend" in (scope.get("extensions") or ()):
            return granian.SERVER
        # Uvicorn imports this implementation where it was chosen.
        if "uvicorn.protocols.websockets.websockets_impl" in sys.modules:
            return uvicorn.WEBSOCKETS
        if (
            "hypercorn.protocol.ws_stream" in sys.modules
            and scope.get("asgi", {}).get("spec_version") == "2.3"
        ):
            return hypercorn.SERVER
    return PLAIN


def before_shutdown(leave: Leave) -> bool:
    """Have ``leave(seconds)`` awaited before the event loop that runs ends, where no task is told.

    These servers wait for it without a bound. Most event loops cancel their tasks at the end.
    Returns whether the server never sends a lifespan.
    """
    if daphne.before_shutdown(leave):
        return True
    uvicorn.before_shutdown(leave)
    granian.before_shutdown(leave)
    return False


def stops_of(loop: asyncio.AbstractEventLoop) -> list[Stop]:
    """What tells of the stop of each server that runs on ``loop``, as far as one is known.

    A server is known by the coroutine that runs it, whoever awaits that. Daphne has none, see
    :func:`is_stopping`.
    """
    found = []
    for task in asyncio.all_tasks(loop):
        coroutine: Any = task.get_coro()
        stop = None
        # It ends with what is no coroutine, or has not begun, or has ended.
        while stop is None and getattr(coroutine, "cr_frame", None) is not None:
            for server in (uvicorn, hypercorn, gunicorn, granian):
                stop = stop or server.stop_of(coroutine)
            coroutine = coroutine.cr_await
        if stop is not None:
            found.append(stop)
    return found
