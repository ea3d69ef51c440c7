"""What single servers need done differently, each with the version it was seen on.

``tests/test_servers.py`` and ``tests/test_quirks.py`` show each of these on the server itself.
"""

import asyncio
import contextlib
import multiprocessing.util
import re
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from pyramid_asgi_consumers import stubborn

Headers = list[tuple[bytes, bytes]]

#: What servers raise where the client has closed a websocket that is to be closed; AttributeError
#: is that of Uvicorn 0.54's ``websockets`` implementation, for a client that resets at once.
CLIENT_WAS_FASTER = (OSError, RuntimeError, AttributeError)


def root_path(scope: Mapping[str, Any]) -> str:
    """The root path that the scope states, as far as it can be trusted.

    Daphne 4.2.3 takes it from a header, ``Daphne-Root-Path``, which any client can send: there it
    is empty.
    """
    return "" if _is_daphne(scope) else scope.get("root_path") or ""


def _is_daphne(scope: Mapping[str, Any]) -> bool:
    # The scope survives ASGI middleware, which send does not. Of all servers Daphne alone gives no
    # version of the specification; the tests of other projects do not either.
    return "spec_version" not in scope.get("asgi", ()) and "daphne.server" in sys.modules


def before_shutdown(leave: Callable[[], Coroutine[Any, Any, object]]) -> bool:
    """Have ``leave()`` awaited before the event loop that runs ends, where no task is told so.

    Most event loops cancel their tasks at the end. Returns whether the server never sends a
    lifespan.
    """
    if _leave_daphne(leave):
        return True
    _leave_uvicorn(leave)
    _leave_granian(leave)
    return False


def _leave_daphne(leave: Callable[[], Coroutine[Any, Any, object]]) -> bool:
    """Have Daphne 4.2.3 stop in good order, and await ``leave()`` before its event loop ends.

    By itself it cancels all requests under way and breaks websockets off; or it fails to, where a
    request has no application just then. Here requests are waited for, at most as many seconds as
    its option ``application-close-timeout`` says, then cancelled and waited for as long again, and
    websockets are closed with 1012, "service restart" (RFC 6455 section 7.4).

    Returns whether it serves at all on the event loop that runs: it may be merely imported.
    """
    # To import this is to install one.
    reactor = sys.modules.get("twisted.internet.reactor")
    if getattr(reactor, "_asyncioEventloop", None) is not asyncio.get_running_loop():
        return False
    from twisted.internet import defer
    from twisted.internet.interfaces import IListeningPort

    ports = [reader for reader in reactor.getReaders() if IListeningPort.providedBy(reader)]
    # With TLS there is a factory around Daphne's.
    factories = [getattr(port.factory, "wrappedFactory", port.factory) for port in ports]
    server = next((factory.server for factory in factories if hasattr(factory, "server")), None)
    if server is None:
        return False
    # Another application of this process may have been faster.
    with contextlib.suppress(ValueError):
        kill = ("before", server.kill_all_applications, (), {})
        reactor.removeSystemEventTrigger(("shutdown", kill))

    async def stop() -> None:
        for port in ports:
            port.stopListening()
        await _drain_daphne(server, reactor)
        await leave()

    def trigger() -> Any:
        return defer.Deferred.fromFuture(asyncio.ensure_future(stop()))

    reactor.addSystemEventTrigger("before", "shutdown", trigger)
    return True


def _leave_uvicorn(leave: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Have Uvicorn 0.54 await ``leave()`` before the shutdown of its lifespan, be it off.

    Told by a signal to stop, it ends with that signal again, in the middle of its event loop.
    """
    server = _uvicorn()
    if server is None:
        return
    shutdown = server.lifespan.shutdown

    async def leave_first() -> None:
        await leave()
        await shutdown()

    server.lifespan.shutdown = leave_first


def _uvicorn() -> Any:
    # The server is known by the handler of the signal that stops it.
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if (
        not isinstance(server, getattr(sys.modules.get("uvicorn.server"), "Server", ()))
        or threading.current_thread() is not threading.main_thread()
    ):
        return None
    return server


def _leave_granian(leave: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Have ``leave()`` run when the process of Granian 2.8.9's worker ends.

    It leaves its event loop as it stands, neither running nor closed.
    """
    loop = asyncio.get_running_loop()
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    if not any(re.match(r"M[PT]Server\._spawn_asgi_", name) for name in names):
        return

    def run() -> None:
        loop.run_until_complete(leave())

    multiprocessing.util.Finalize(None, run, exitpriority=0)


async def _drain_daphne(server: Any, reactor: Any) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + server.application_close_timeout
    while loop.time() < end and (reactor.getWriters() or _is_busy(server)):
        for protocol in list(server.connections):
            if getattr(protocol, "state", None) == getattr(protocol, "STATE_OPEN", ...):
                protocol.sendCloseFrame(1012)
        await asyncio.sleep(0.02)
    await stubborn.end(_applications(server), server.application_close_timeout)


def _is_busy(server: Any) -> bool:
    # Of a request that is still read there is no application.
    open_ones = (not details.get("disconnected") for details in server.connections.values())
    return any(open_ones) or any(not each.done() for each in _applications(server))


def _applications(server: Any) -> list[Any]:
    found = (details.get("application_instance") for details in server.connections.values())
    return [application for application in found if application is not None]


def waits_for_ever() -> bool:
    """Whether the server may wait without an end for a task that goes on though it is cancelled.

    Hypercorn 0.18 does, in a task group for each connection, before it ends the lifespan.
    """
    return "hypercorn.asyncio.run" in sys.modules


def patience() -> float | None:
    """For how many seconds to wait for what was cancelled; None without a bound.

    As Hypercorn 0.18 stops it has given its connections the ``graceful_timeout`` already, and
    would wait for ever: they are given that time once more.
    """
    module = sys.modules.get("hypercorn.asyncio.run")
    if module is not None:
        for task in asyncio.all_tasks():
            coroutine = task.get_coro()
            # The server's function is awaited by serve(), or is a task by itself.
            while getattr(coroutine, "cr_code", module.worker_serve.__code__) is not (
                module.worker_serve.__code__
            ):
                coroutine = coroutine.cr_await
            running = getattr(coroutine, "cr_frame", None)
            if running is not None and "context" in running.f_locals:
                if running.f_locals["context"].terminated.is_set():
                    return running.f_locals["config"].graceful_timeout
    return None


async def drain() -> None:
    """Wait for the connections that Uvicorn 0.54 has cancelled as it stops, and does not wait for.

    Else their contexts would be left before they have ended; and where one goes on, and nobody has
    sent a SIGTERM, of which Uvicorn dies, asyncio.Runner would wait for ever.
    """
    server = _uvicorn()
    if server is None or any(each.is_serving() for each in server.servers):
        return
    # They have children, which Python 3.10 does not know to be cancelled.
    cancelled = {task for task in asyncio.all_tasks() if getattr(task, "cancelling", int)()}
    if tasks := cancelled | server.server_state.tasks:
        bound = server.config.timeout_graceful_shutdown
        _, pending = await asyncio.wait(tasks, timeout=bound)
        stubborn.leave_alone(pending, bound)


def break_off(send: Any) -> bool:
    """Break off a response that has started; return whether raising is no way to do so.

    Daphne 4.2.3 leaves the connection open when an application raises after its response has
    started, and stops looking after all other applications. Other servers do break it off.
    """
    protocol = _daphne_protocol(send)
    # Daphne logs what is raised after the end of a response, and nothing else happens.
    if protocol is None or protocol.finished:
        return False
    protocol.transport.abortConnection()
    return True


def paced(send: Any) -> Callable[[dict[str, Any]], Any]:
    """A ``send`` for http that waits while the client is slow.

    Daphne 4.2.3 buffers whatever it is given: there Twisted's transport is asked.
    """
    protocol = _daphne_protocol(send)
    if protocol is None:
        return send
    pace: _Pace | None = None

    async def send_paced(message: dict[str, Any]) -> None:
        nonlocal pace
        if protocol.channel is None:
            return
        if message.get("more_body") and pace is None:
            pace = _Pace()
            protocol.registerProducer(pace, True)
        elif pace is not None and not message.get("more_body"):
            protocol.unregisterProducer()
        await send(message)
        if pace is not None:
            await pace.ready.wait()

    return send_paced


class _Pace:
    """A push producer of Twisted, which is told when the transport is full."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ready.set()

    def pauseProducing(self) -> None:
        self.ready.clear()

    def resumeProducing(self) -> None:
        self.ready.set()

    stopProducing = resumeProducing


class _WebSocketPace(_Pace):
    """The same for what is sent to the websocket of ``protocol``, once it has been started."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self._protocol = protocol
        self._started = False

    def start(self) -> None:
        if self._started:
            return
        self._started = True
        # The HTTP channel that the websocket came through is still registered.
        self._protocol.unregisterProducer()
        self._protocol.registerProducer(self, True)
        # Autobahn calls this when it drops the connection; who waits would be forgotten.
        self._unregister = self._protocol.unregisterProducer
        self._protocol.unregisterProducer = self._stop

    def _stop(self) -> None:
        self.resumeProducing()
        self._unregister()


def websocket(scope: Mapping[str, Any], receive: Any, send: Any) -> tuple[Any, Any]:
    """The ``receive`` and ``send`` of a websocket that do what the specification says.

    Daphne 4.2.3 drops the headers of ``websocket.accept`` and the reason of ``websocket.close``,
    and raises for close codes from 1001 to 2999, the 1011 of a consumer that crashed among them.
    What is sent while the websocket closes is an error of Autobahn's there, and no OSError. It
    buffers whatever it is given: Twisted's transport is asked.
    Granian 2.8.7's worker may die of a ``websocket.close`` after ``websocket.disconnect`` while it
    stops, and then leaves no lifespan context.
    """
    protocol = _daphne_protocol(send)
    if protocol is not None:
        return receive, partial(_daphne_websocket_send, protocol, _WebSocketPace(protocol), send)
    if not _is_granian(scope):
        return receive, send
    left = False

    async def noting_receive() -> dict[str, Any]:
        nonlocal left
        message = await receive()
        left = message["type"] == "websocket.disconnect"
        return message

    async def unless_left_send(message: dict[str, Any]) -> None:
        if not (left and message["type"] == "websocket.close"):
            await send(message)

    return noting_receive, unless_left_send


async def _daphne_websocket_send(
    protocol: Any, pace: "_WebSocketPace", send: Any, message: dict[str, Any]
) -> None:
    kind = message["type"]
    if kind == "websocket.accept":
        headers: dict[str, list[str]] = {}
        for name, value in message.get("headers") or ():
            if b"\n" in value or b"\r" in value:
                raise ValueError(f"The header {name!r} has a line break: {value!r}")
            headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
        # Daphne hands this on to Autobahn, which knows pairs.
        message = {**message, "subprotocol": (message.get("subprotocol"), headers)}
    elif kind == "websocket.close" and protocol.state == protocol.STATE_OPEN:
        reason = (message.get("reason") or "").encode()
        return protocol.sendCloseFrame(message.get("code", 1000), reason)
    elif kind == "websocket.send":
        if protocol.state not in (protocol.STATE_CONNECTING, protocol.STATE_OPEN):
            raise OSError("The websocket is closed")
        pace.start()
    await send(message)
    await pace.ready.wait()


def _daphne_protocol(send: Any) -> Any:
    """What Daphne serves a request or a websocket with, None on any other server."""
    if isinstance(send, partial) and send.args:
        protocol = send.args[0]
        if type(protocol).__module__ in ("daphne.http_protocol", "daphne.ws_protocol"):
            return protocol
    return None


def denial_status(send: Any, status: int) -> int:
    """The status of a denial that this server can send.

    Uvicorn 0.54 and Hypercorn 0.18 forward a 1xx as it is, and Granian 2.8.7 opens the websocket
    for a 101; what is above 599 none of the three can send. Uvicorn's old ``websockets``
    implementation fails on a status that Python's ``http.HTTPStatus`` does not know.
    """
    if not 200 <= status <= 599:
        return 500
    if type(getattr(send, "__self__", None)).__module__ != (
        "uvicorn.protocols.websockets.websockets_impl"
    ):
        return status
    return status if status in set(HTTPStatus) else status // 100 * 100


def denial_headers(scope: Mapping[str, Any], headers: Headers) -> Headers:
    """The headers of a denial that this server can send.

    Up to 2.8.7 Granian's worker dies on a header name that comes twice: repeats are merged with a
    comma, and of cookies, which cannot be merged, the first is kept. 2.8.9 sends them all.
    """
    if not _is_granian(scope) or _granian_version() >= (2, 8, 9):
        return headers
    merged: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        if name not in merged:
            merged[name] = value
        elif name != b"set-cookie":
            merged[name] += b", " + value
    return list(merged.items())


def tells_who_left_early(scope: Mapping[str, Any]) -> bool:
    """Whether ``receive`` tells of a client that leaves before its request was answered.

    Granian 2.8.9 does not for a websocket, and what waits there then never ends.
    """
    return scope["type"] != "websocket" or not _is_granian(scope)


def _is_granian(scope: Mapping[str, Any]) -> bool:
    # It alone offers this to a websocket.
    return "http.response.pathsend" in (scope.get("extensions") or ())


def _granian_version() -> tuple[int, ...]:
    version = getattr(sys.modules.get("granian"), "__version__", "0")
    return tuple(int(number) for number in re.findall("[0-9]+", version)[:3])
