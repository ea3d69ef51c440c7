"""What is done differently for Daphne 4.2.3.

Most of it is done to Daphne's protocol, the object that serves one connection, since middleware may
wrap ``send``: see :func:`_protocol_of` for how that is found.
"""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pyramid_asgi_consumers import stubborn
from pyramid_asgi_consumers.quirks.specification import SERVED_BY, Leave, Server


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

        Otherwise Daphne leaves it open when an application raises after its response has started,
        and its check of all other applications stops, too. Other servers do break it off.
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


def end_where_cancelled(protocol: Any) -> None:
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


class UnknownDaphne(Server):
    """Daphne, with a protocol that is not found: nobody knows who states the root path."""

    def root_path(self, scope: Mapping[str, Any]) -> str:
        return ""


_UNKNOWN = UnknownDaphne()


def serves(scope: Mapping[str, Any]) -> bool:
    """Whether it is Daphne that serves the connection of ``scope``."""
    # The scope survives ASGI middleware, which send does not. Of all servers Daphne alone gives no
    # version of the specification; the tests of other projects do not either.
    if "spec_version" in scope.get("asgi", ()) or "daphne.server" not in sys.modules:
        return False
    # It may be merely imported, or serve in another thread.
    reactor = sys.modules["twisted.internet.reactor"]
    return reactor.running and reactor._asyncioEventloop is asyncio._get_running_loop()


def server_of(scope: Mapping[str, Any], send: Any) -> Server:
    """What serves the connection of ``scope``, which Daphne does."""
    protocol = _protocol_of(scope, send)
    if protocol is None:
        return _UNKNOWN
    end_where_cancelled(protocol)
    return Daphne(protocol)


#: Daphne's servers of this process, as found last.
_servers: list[Any] = []


def _protocol_of(scope: Mapping[str, Any], send: Any) -> Any:
    """What Daphne serves ``scope`` with, None where it is not found."""
    if isinstance(send, partial) and send.args:
        protocol = send.args[0]
        if type(protocol).__module__ in ("daphne.http_protocol", "daphne.ws_protocol"):
            return protocol
    protocol = _among(_servers, scope)
    if protocol is None:
        _servers[:] = _find_servers()
        protocol = _among(_servers, scope)
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


def _find_servers() -> list[Any]:
    ports = _listening_ports()
    # With TLS there is a factory around Daphne's.
    factories = [getattr(port.factory, "wrappedFactory", port.factory) for port in ports]
    return [factory.server for factory in factories if hasattr(factory, "server")]


def before_shutdown(leave: Leave) -> bool:
    """Have Daphne 4.2.3 stop in good order, and await ``leave`` before its event loop ends.

    By itself it cancels all requests under way and breaks websockets off; or it fails to, where a
    request has no application just then. Here requests are waited for, at most as many seconds as
    its option ``application-close-timeout`` says, then cancelled and waited for as long again, and
    websockets are closed with 1012, "service restart" (RFC 6455 section 7.4).

    Returns whether it serves at all on the event loop that runs: it may be merely imported.
    """
    # To import this is to install one.
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    if getattr(reactor, "_asyncioEventloop", None) is not asyncio.get_running_loop():
        return False
    from twisted.internet import defer

    servers = _find_servers()
    if not servers:
        return False
    server = servers[0]
    ports = _listening_ports()
    # Another application of this process may have been faster.
    with contextlib.suppress(ValueError):
        kill: tuple[Any, ...] = ("before", server.kill_all_applications, (), {})
        reactor.removeSystemEventTrigger(("shutdown", kill))

    async def stop() -> None:
        for port in ports:
            port.stopListening()
        await drain(server, reactor)
        await leave(server.application_close_timeout)

    def trigger() -> Any:
        return defer.Deferred.fromFuture(asyncio.ensure_future(stop()))

    reactor.addSystemEventTrigger("before", "shutdown", trigger)
    return True


def _listening_ports() -> list[Any]:
    from twisted.internet import reactor
    from twisted.internet.interfaces import IListeningPort

    return [reader for reader in reactor.getReaders() if IListeningPort.providedBy(reader)]


async def drain(server: Any, reactor: Any) -> None:
    """Wait for the requests of Daphne's ``server``, close its websockets, then cancel the rest.

    Each for at most as many seconds as ``server.application_close_timeout`` says.
    """
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


def is_stopping(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether Twisted's reactor, in which Daphne runs, stops, if it is what runs ``loop``."""
    reactor: Any = sys.modules.get("twisted.internet.reactor")
    return getattr(reactor, "_asyncioEventloop", None) is loop and reactor._stopped
