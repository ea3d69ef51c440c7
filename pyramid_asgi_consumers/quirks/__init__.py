"""What single servers need done differently, each with the version it was seen on.

``test_servers.py`` and ``test_quirks.py`` in ``tests/servers`` show each of these on the server
itself, ``test_around_servers.py`` with others around the application.
"""

import asyncio
import contextlib
import multiprocessing.util
import re
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from pyramid_asgi_consumers import stubborn

Headers = list[tuple[bytes, bytes]]

#: What servers raise where the client has closed a websocket that is to be closed; AttributeError
#: is that of Uvicorn 0.54's ``websockets`` implementation, for a client that resets at once.
CLIENT_WAS_FASTER = (OSError, RuntimeError, AttributeError)

#: Where the scope of a consumer's connection has its :class:`Server`.
SERVED_BY = "pyramid_asgi_consumers.served_by"


class Server:
    """What serves one connection, and what is done differently for it: here nothing is."""

    def root_path(self, scope: Mapping[str, Any]) -> str:
        """The root path that ``scope`` states, as far as it can be trusted."""
        return scope.get("root_path") or ""

    def break_off(self) -> bool:
        """Break off a response that has started; return whether raising is no way to do so."""
        return False

    def paced(self, send: Any) -> Any:
        """A ``send`` for http that waits while the client is slow."""
        return send

    def websocket(self, receive: Any, send: Any) -> tuple[Any, Any]:
        """The ``receive`` and ``send`` of a websocket that do what the specification says."""
        return receive, send

    def denial_status(self, status: int) -> int:
        """The status of a denial that can be sent.

        Uvicorn 0.54 and Hypercorn 0.18 forward a 1xx as it is, and Granian 2.8.7 opens the
        websocket for a 101; what is above 599 none of the three can send.
        """
        return status if 200 <= status <= 599 else 500

    def denial_headers(self, headers: Headers) -> Headers:
        """The headers of a denial that can be sent."""
        return headers

    def accept(self, scope: Mapping[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        """The ``websocket.accept`` that has any subprotocol sent which the client offers."""
        return event

    def refused(self, send: Any) -> None:
        """Have the connection answered otherwise after an answer that the server refused.

        ``send`` is what the server, or middleware, gave.
        """

    def has_left(self, send: Any) -> bool:
        """Whether the client of a websocket just accepted has left, as ``receive`` never says."""
        return False

    #: Whether ``receive`` tells of a client that leaves before its request was answered.
    tells_who_left_early = True

    #: Whether, once a websocket's ``receive`` has told that the client has left, ``send`` raises,
    #: and ``receive`` suspends or raises.
    minds_who_left = True


def served_by(scope: Mapping[str, Any], send: Any) -> Server:
    """What serves the connection of ``scope``.

    Middleware may have copied the scope and wrapped ``send``, and may run the application in a
    task of its own. An application that this one is mounted in may have found it already.
    """
    server = scope.get(SERVED_BY)
    if server is not None:
        return server
    if _is_daphne(scope):
        protocol = _daphne_protocol(scope, send)
        if protocol is None:
            return _UNKNOWN_DAPHNE
        answer_where_cancelled(protocol)
        return Daphne(protocol)
    if scope["type"] == "websocket":
        # It alone offers this to a websocket.
        if "http.response.pathsend" in (scope.get("extensions") or ()):
            return _GRANIAN
        # It is imported where it is chosen.
        if "uvicorn.protocols.websockets.websockets_impl" in sys.modules:
            return _UVICORN_WEBSOCKETS
        if (
            "hypercorn.protocol.ws_stream" in sys.modules
            and scope.get("asgi", {}).get("spec_version") == "2.3"
        ):
            return _HYPERCORN
    return PLAIN


def put_before(scope: Mapping[str, Any]) -> str:
    """What the server has put in front of the target in the ``path`` of ``scope``.

    Uvicorn 0.54 puts its root path in front of a handshake's target, be that in absolute form. A
    client can send what looks like it to any other server, or to an application that states a root
    path itself: so it is only taken from where Uvicorn serves this very path.
    """
    frame = getattr(asyncio.current_task().get_coro(), "cr_frame", None)
    protocol = None if frame is None else frame.f_locals.get("self")
    if (
        type(protocol).__module__.startswith("uvicorn.protocols.websockets.")
        and protocol.scope["path"] == scope["path"]
    ):
        return protocol.root_path
    return ""


class UvicornWebsockets(Server):
    """Uvicorn 0.54's ``websockets`` implementation.

    It fails on a denial whose status Python's ``http.HTTPStatus`` does not know. Its ``receive``
    tells again and again that the client has left, and does not suspend.
    """

    minds_who_left = False

    def denial_status(self, status: int) -> int:
        status = super().denial_status(status)
        return status if status in set(HTTPStatus) else status // 100 * 100


class Hypercorn(Server):
    """Hypercorn 0.18, on a websocket."""

    minds_who_left = False

    def accept(self, scope: Mapping[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        """Put a subprotocol that Hypercorn does not know among the headers.

        Where the client offers them in several, Hypercorn knows the last and raises for the others.
        Among the headers it looks for one in lower case.
        """
        subprotocol = event["subprotocol"]
        if subprotocol is None or subprotocol in scope["subprotocols"]:
            return event
        header = (b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1"))
        return {**event, "subprotocol": None, "headers": [*event["headers"], header]}

    def refused(self, send: Any) -> None:
        """Hypercorn takes a websocket for open before it finds that it cannot accept it."""
        stream = _hypercorn_stream(send)
        if stream is not None:
            stream.state = type(stream.state).HANDSHAKE

    def has_left(self, send: Any) -> bool:
        """Whether Hypercorn has given the handshake up.

        It answers 400 to what comes before the accept, in the same packet, say. From then on its
        ``send`` does nothing, and nobody is told.
        """
        stream = _hypercorn_stream(send)
        return stream is not None and stream.closed


def _hypercorn_stream(send: Any) -> Any:
    """What Hypercorn serves a websocket with, None where it is not found."""
    # Middleware may have wrapped send, but is in the task that Hypercorn has made mostly.
    frame = getattr(asyncio.current_task().get_coro(), "cr_frame", None)
    sends = [send] if frame is None else [send, frame.f_locals.get("send")]
    for each in sends:
        stream = getattr(each, "__self__", None)
        if type(stream).__module__ == "hypercorn.protocol.ws_stream":
            return stream
    return None


class Granian(Server):
    """Granian, on a websocket."""

    # 2.8.9 does not, and what waits there then never ends.
    tells_who_left_early = False

    minds_who_left = False

    def websocket(self, receive: Any, send: Any) -> tuple[Any, Any]:
        """No close after a disconnect, and no message lost by a ``receive`` that is cancelled.

        Granian 2.8.7's worker may die of such a close while it stops, and then leaves no lifespan
        context. Its future (2.8.9) loses the message that it is being given as it is cancelled:
        it is kept for the next ``receive``.
        """
        left = False
        kept: Any = None
        waiting: list[asyncio.Future[None]] = []

        def arrived(_: Any) -> None:
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
            waiting.clear()

        async def noting_receive() -> dict[str, Any]:
            nonlocal left, kept
            while True:
                if kept is None:
                    asked = receive()
                    if not asyncio.isfuture(asked):
                        # What it has at once is no future.
                        message = await asked
                        break
                    kept = asked
                    # It calls one callback, the last.
                    asked.add_done_callback(arrived)
                asked = kept
                if not asked.done():
                    waiter = asyncio.get_running_loop().create_future()
                    waiting.append(waiter)
                    await waiter
                # Another task may have been faster.
                if kept is asked:
                    kept = None
                    message = asked.result()
                    break
            left = message["type"] == "websocket.disconnect"
            return message

        async def unless_left_send(message: dict[str, Any]) -> None:
            if not (left and message["type"] == "websocket.close"):
                await send(message)

        return noting_receive, unless_left_send

    def denial_headers(self, headers: Headers) -> Headers:
        """Headers of which no name comes twice.

        Up to 2.8.7 Granian's worker dies on one that does: repeats are merged with a comma, and of
        cookies, which cannot be merged, the first is kept. 2.8.9 sends them all.
        """
        version = getattr(sys.modules.get("granian"), "__version__", "0")
        if tuple(int(number) for number in re.findall("[0-9]+", version)[:3]) >= (2, 8, 9):
            return headers
        merged: dict[bytes, bytes] = {}
        for name, value in headers:
            name = name.lower()
            if name not in merged:
                merged[name] = value
            elif name != b"set-cookie":
                merged[name] += b", " + value
        return list(merged.items())


class Daphne(Server):
    """Daphne 4.2.3, which serves the connection with ``protocol``."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self._is_paced = False
        self._websocket_pace: _WebSocketPace | None = None

    def root_path(self, scope: Mapping[str, Any]) -> str:
        """The root path without what the client stated.

        Daphne takes it from a header, ``Daphne-Root-Path``, which any client can send. What its
        option says is kept, and so is what applications around this one have added.
        """
        stated = self.protocol.root_path
        configured = self.protocol.server.root_path
        given = scope.get("root_path") or ""
        if stated == configured or SERVED_BY in scope:
            return given
        added = given[len(stated) :] if given.startswith(stated) else ""
        # An application that states its own root path has added nothing to the client's.
        return configured.rstrip("/") + (
            added if f"{scope['path']}/".startswith(f"{added}/") else ""
        )

    def break_off(self) -> bool:
        """Abort the connection.

        Daphne leaves it open when an application raises after its response has started, and stops
        looking after all other applications. Other servers do break it off.
        """
        # Daphne logs what is raised after the end of a response, and nothing else happens.
        if self.protocol.finished:
            return False
        self.protocol.transport.abortConnection()
        return True

    def refused(self, send: Any) -> None:
        """Daphne takes a response for started before it finds that it cannot be sent."""
        protocol = self.protocol
        # A websocket has none.
        if getattr(protocol, "_response_started", False) and not protocol.startedWriting:
            protocol._response_started = False
            protocol.responseHeaders = type(protocol.responseHeaders)()

    def paced(self, send: Any) -> Callable[[dict[str, Any]], Any]:
        """Ask Twisted's transport: Daphne buffers whatever it is given."""
        if self._is_paced:
            # An application of ours that is around this one does so.
            return send
        self._is_paced = True
        protocol = self.protocol
        pace: _Pace | None = None

        async def send_paced(message: dict[str, Any]) -> None:
            nonlocal pace
            if protocol.channel is None:
                return await send(message)
            if message.get("more_body") and pace is None:
                pace = _Pace()
                protocol.registerProducer(pace, True)
            elif pace is not None and not message.get("more_body"):
                protocol.unregisterProducer()
            await send(message)
            if pace is not None:
                await pace.ready.wait()

        return send_paced

    def websocket(self, receive: Any, send: Any) -> tuple[Any, Any]:
        """Send what Daphne does not.

        It drops the headers of ``websocket.accept`` and the reason of ``websocket.close``, and
        raises for close codes from 1001 to 2999, the 1011 of a consumer that crashed among them.
        What is sent while the websocket closes is an error of Autobahn's there, and no OSError. It
        buffers whatever it is given: Twisted's transport is asked.
        """
        # Not in send: between it and Daphne there may be middleware, to see what is sent.
        self.protocol.handle_reply = self._handle_reply
        if self._websocket_pace is None:
            self._websocket_pace = _WebSocketPace(self.protocol)
        return receive, partial(self._send, self._websocket_pace, send)

    async def _send(self, pace: "_WebSocketPace", send: Any, message: dict[str, Any]) -> None:
        protocol = self.protocol
        if message["type"] == "websocket.send":
            if protocol.state not in (protocol.STATE_CONNECTING, protocol.STATE_OPEN):
                raise OSError("The websocket is closed")
            pace.start()
        await send(message)
        await pace.ready.wait()

    def _handle_reply(self, message: dict[str, Any]) -> None:
        protocol = self.protocol
        kind = message["type"]
        if kind == "websocket.accept":
            headers: dict[str, list[str]] = {}
            for name, value in message.get("headers") or ():
                if b"\n" in value or b"\r" in value:
                    raise ValueError(f"The header {name!r} has a line break: {value!r}")
                headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
            subprotocol = message.get("subprotocol")
            if subprotocol is not None and subprotocol not in protocol.websocket_protocols:
                # Autobahn would answer nothing.
                raise ValueError(f"The client does not offer the subprotocol {subprotocol!r}")
            # Daphne hands this on to Autobahn, which knows pairs.
            protocol.serverAccept((subprotocol, headers))
        elif kind == "websocket.close" and protocol.state == protocol.STATE_OPEN:
            reason = (message.get("reason") or "").encode()
            protocol.sendCloseFrame(message.get("code", 1000), reason)
        else:
            type(protocol).handle_reply(protocol, message)


def answer_where_cancelled(protocol: Any) -> None:
    """Have a connection end whose application is cancelled: by the project's own code, say.

    Daphne 4.2.3 leaves it open, and its client waits. Other servers do end it.
    """
    details = protocol.server.connections.get(protocol, {})

    def end(task: Any) -> None:
        if not task.cancelled() or details.get("disconnected"):
            return
        if getattr(protocol, "_response_started", False):
            if not protocol.finished:
                protocol.transport.abortConnection()
        else:
            protocol.handle_exception(None)

    task = details.get("application_instance")
    if task is not None:
        task.add_done_callback(end)


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


class _UnknownDaphne(Server):
    """Daphne, with a protocol that is not found: nobody knows who states the root path."""

    def root_path(self, scope: Mapping[str, Any]) -> str:
        return ""


PLAIN = Server()
_GRANIAN = Granian()
_UVICORN_WEBSOCKETS = UvicornWebsockets()
_HYPERCORN = Hypercorn()
_UNKNOWN_DAPHNE = _UnknownDaphne()


def _is_daphne(scope: Mapping[str, Any]) -> bool:
    # The scope survives ASGI middleware, which send does not. Of all servers Daphne alone gives no
    # version of the specification; the tests of other projects do not either.
    if "spec_version" in scope.get("asgi", ()) or "daphne.server" not in sys.modules:
        return False
    # It may be merely imported, or serve in another thread.
    reactor = sys.modules["twisted.internet.reactor"]
    return reactor.running and reactor._asyncioEventloop is asyncio._get_running_loop()


#: Daphne's servers of this process, as found last.
_daphne_servers: list[Any] = []


def _daphne_protocol(scope: Mapping[str, Any], send: Any) -> Any:
    """What Daphne serves ``scope`` with, None where it is not found."""
    if isinstance(send, partial) and send.args:
        protocol = send.args[0]
        if type(protocol).__module__ in ("daphne.http_protocol", "daphne.ws_protocol"):
            return protocol
    protocol = _among(_daphne_servers, scope)
    if protocol is None:
        _daphne_servers[:] = _find_daphne_servers()
        protocol = _among(_daphne_servers, scope)
    return protocol


def _among(servers: list[Any], scope: Mapping[str, Any]) -> Any:
    task = asyncio.current_task()
    for server in servers:
        # The latest comes last, and is the most likely.
        for protocol, details in reversed(server.connections.items()):
            # Middleware copies the scope, and replaces one or the other of what Daphne made for
            # this connection alone. Whoever makes a scope of his own may still be in Daphne's
            # task; but so is a request that an application makes to another within this process.
            if (
                _is_same(scope, "headers", protocol, "clean_headers")
                or _is_same(scope, "client", protocol, "client_addr")
                or _is_same(scope, "server", protocol, "server_addr")
                or (
                    details.get("application_instance") is task
                    and scope.get("raw_path") == protocol.path
                )
            ):
                return protocol
    return None


def _is_same(scope: Mapping[str, Any], key: str, protocol: Any, name: str) -> bool:
    value = scope.get(key)
    return value is not None and value is getattr(protocol, name, None)


def _find_daphne_servers() -> list[Any]:
    ports = _listening_ports()
    # With TLS there is a factory around Daphne's.
    factories = [getattr(port.factory, "wrappedFactory", port.factory) for port in ports]
    return [factory.server for factory in factories if hasattr(factory, "server")]


#: It gets the seconds that it may take, None where the server does not say.
Leave = Callable[[float | None], Coroutine[Any, Any, object]]


def before_shutdown(leave: Leave) -> bool:
    """Have ``leave(seconds)`` awaited before the event loop that runs ends, where no task is told.

    These servers wait for it without a bound. Most event loops cancel their tasks at the end.
    Returns whether the server never sends a lifespan.
    """
    if _leave_daphne(leave):
        return True
    _leave_uvicorn(leave)
    _leave_granian(leave)
    return False


def _leave_daphne(leave: Leave) -> bool:
    """Have Daphne 4.2.3 stop in good order, and await ``leave`` before its event loop ends.

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

    servers = _find_daphne_servers()
    if not servers:
        return False
    server = servers[0]
    ports = _listening_ports()
    # Another application of this process may have been faster.
    with contextlib.suppress(ValueError):
        kill = ("before", server.kill_all_applications, (), {})
        reactor.removeSystemEventTrigger(("shutdown", kill))

    async def stop() -> None:
        for port in ports:
            port.stopListening()
        await _drain_daphne(server, reactor)
        await leave(server.application_close_timeout)

    def trigger() -> Any:
        return defer.Deferred.fromFuture(asyncio.ensure_future(stop()))

    reactor.addSystemEventTrigger("before", "shutdown", trigger)
    return True


def _leave_uvicorn(leave: Leave) -> None:
    """Have Uvicorn 0.54 await ``leave`` before the shutdown of its lifespan, be it off.

    Told by a signal to stop, it ends with that signal again, in the middle of its event loop.
    """
    server = _uvicorn()
    if server is None:
        return
    shutdown = server.lifespan.shutdown

    async def leave_first() -> None:
        await leave(server.config.timeout_graceful_shutdown)
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


def _leave_granian(leave: Leave) -> None:
    """Have ``leave`` run when the process of Granian 2.8.9's worker ends.

    It leaves its event loop as it stands, neither running nor closed.
    """
    loop = asyncio.get_running_loop()
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    if not any(re.match(r"M[PT]Server\._spawn_asgi_", name) for name in names):
        return

    def run() -> None:
        loop.run_until_complete(leave(None))

    multiprocessing.util.Finalize(None, run, exitpriority=0)


def _listening_ports() -> list[Any]:
    from twisted.internet import reactor
    from twisted.internet.interfaces import IListeningPort

    return [reader for reader in reactor.getReaders() if IListeningPort.providedBy(reader)]


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


#: The ``graceful_timeout`` of Hypercorn's server that stops, by event loop.
_stopping: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, float]" = (
    weakref.WeakKeyDictionary()
)


def patience() -> float | None:
    """For how many seconds to wait for what was cancelled; None without a bound.

    As Hypercorn 0.18 stops it has given its connections the ``graceful_timeout`` already, and
    would wait for ever: they are given that time once more.
    """
    module = sys.modules.get("hypercorn.asyncio.run")
    if module is None:
        return None
    # All its connections ask at once, so it is looked for among all tasks until it stops.
    loop = asyncio.get_running_loop()
    if loop not in _stopping:
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
                    _stopping[loop] = running.f_locals["config"].graceful_timeout
                    break
    return _stopping.get(loop)


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
