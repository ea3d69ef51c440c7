"""What is done differently for Uvicorn 0.54."""

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from traceback import extract_tb
from typing import Any

from pyramid_asgi_consumers import stubborn
from pyramid_asgi_consumers.quirks.specification import Leave, Server, Stop

log = logging.getLogger(__name__)


def put_before(scope: Mapping[str, Any]) -> str:
    """What the server has put in front of the target in the ``path`` of ``scope``.

    Uvicorn 0.54 puts its root path before the target of a handshake, and with h11 of any request,
    even before one in absolute form. A client can send what looks like it to any other server, or
    to an application that states a root path itself: so it is only taken from where Uvicorn serves
    this very path.
    """
    task: Any = asyncio.current_task()
    frame = getattr(task.get_coro(), "cr_frame", None)
    served: Any = None if frame is None else frame.f_locals.get("self")
    if (
        not type(served).__module__.startswith("uvicorn.protocols.")
        or served.scope["path"] != scope["path"]
    ):
        return ""
    # A request is served by a cycle of its protocol.
    return getattr(getattr(served, "on_response", None), "__self__", served).root_path


_HTTP = frozenset(("uvicorn.protocols.http.httptools_impl", "uvicorn.protocols.http.h11_impl"))
_WEBSOCKETS = frozenset(
    (
        "uvicorn.protocols.websockets.websockets_sansio_impl",
        "uvicorn.protocols.websockets.wsproto_impl",
    )
)


def at_once(send: Any) -> Callable[[dict[str, Any]], bool] | None:
    """What sends a message at once, or returns False and has done nothing; for :data:`.AT_ONCE`.

    None where ``send`` is not Uvicorn's own, or that of its ``websockets`` implementation. Uvicorn
    0.54's others wait for a slow client, before all else, and for nothing else: so whoever knows
    that it need not wait has no need of a task for each client.
    """
    served: Any = getattr(send, "__self__", None)
    module = type(served).__module__
    if module in _WEBSOCKETS:
        is_open = served.writable.is_set
    elif module in _HTTP:
        is_open = partial(_is_open, served.flow)
    else:
        return None

    def sent(message: dict[str, Any]) -> bool:
        if served.disconnected or not is_open():
            return False
        coroutine = send(message)
        try:
            coroutine.send(None)
        except StopIteration:
            return True
        # It waits, before it has done anything.
        coroutine.close()
        return False

    return sent


def _is_open(flow: Any) -> bool:
    return not flow.write_paused


class UvicornWebsockets(Server):
    """Uvicorn 0.54's ``websockets`` implementation.

    It fails on a denial whose status Python's ``http.HTTPStatus`` does not know. Its ``receive``
    tells again and again that the client has left, and does not suspend. Where a task waits for a
    client that reads nothing, no other can: the close of websockets 17.4 fails when it has put its
    frame behind the rest.
    """

    minds_who_left = False

    async def close(self, send: Any, event: dict[str, Any]) -> None:
        try:
            await super().close(send, event)
        except AssertionError as error:
            if extract_tb(error.__traceback__)[-1].name != "_drain_helper":
                raise
            log.debug("The close waits behind what the client does not read")

    def denial_status(self, status: int) -> int:
        status = super().denial_status(status)
        return status if status in set(HTTPStatus) else status // 100 * 100


#: What serves the websockets of that implementation.
WEBSOCKETS = UvicornWebsockets()


def before_shutdown(leave: Leave) -> None:
    """Have Uvicorn 0.54 await ``leave`` before the shutdown of its lifespan, be it off.

    Told by a signal to stop, it ends with that signal again, in the middle of its event loop.
    """
    server = _running_server()
    if server is None:
        return
    shutdown = server.lifespan.shutdown

    async def leave_first() -> None:
        await leave(server.config.timeout_graceful_shutdown)
        await shutdown()

    server.lifespan.shutdown = leave_first


def _running_server() -> Any:
    # The server is known by the handler of the signal that stops it.
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if (
        not isinstance(server, getattr(sys.modules.get("uvicorn.server"), "Server", ()))
        or threading.current_thread() is not threading.main_thread()
    ):
        return None
    return server


async def drain() -> None:
    """Wait for the connections that Uvicorn 0.54 has cancelled as it stops, and does not wait for.

    Else their contexts would be left before they have ended; and where one goes on, and nobody has
    sent a SIGTERM, of which Uvicorn dies, asyncio.Runner would wait for ever.
    """
    server = _running_server()
    if server is None or any(each.is_serving() for each in server.servers):
        return
    # They have children, which Python 3.10 does not know to be cancelled.
    cancelled = {task for task in asyncio.all_tasks() if getattr(task, "cancelling", int)()}
    if tasks := cancelled | server.server_state.tasks:
        bound = server.config.timeout_graceful_shutdown
        _, pending = await asyncio.wait(tasks, timeout=bound)
        stubborn.leave_alone(pending, bound)


def stop_of(coroutine: Any) -> Stop | None:
    """What tells of the stop of the server that ``coroutine`` runs, if that is Uvicorn 0.54.

    It may run in any thread, and be run by any function of its user's.
    """
    server_class = getattr(sys.modules.get("uvicorn.server"), "Server", None)
    if server_class is None:
        return None
    # Who calls these one by one has no call of serve().
    for function in (server_class.serve, server_class.main_loop, server_class.shutdown):
        if coroutine.cr_code is function.__code__:
            return UvicornStop(coroutine, coroutine.cr_frame.f_locals["self"])
    return None


class UvicornStop(Stop):
    """The stop of Uvicorn 0.54's ``server``.

    It waits without a bound until each client has taken what it has sent to it.
    """

    def __init__(self, coroutine: Any, server: Any) -> None:
        super().__init__(coroutine, partial(_has_begun_to_stop, server))
        self._connections = server.server_state.connections

    def break_off(self, scopes: Iterable[Mapping[str, Any]]) -> None:
        # Whoever copies a scope keeps its headers mostly; and there may be no address.
        served = {id(scope["headers"]) for scope in scopes}
        for protocol in list(self._connections):
            scope = getattr(protocol, "scope", None) or {}
            if id(scope.get("headers")) in served and protocol.transport.get_write_buffer_size():
                protocol.transport.abort()


def _has_begun_to_stop(server: Any) -> bool:
    if server.should_exit:
        return True
    # After limit_max_requests nobody sets that.
    servers = getattr(server, "servers", ())
    return bool(servers) and not any(each.is_serving() for each in servers)
