"""What single servers need done differently, each with the version it was seen on."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus
from typing import Any

# Daphne is written to without flow control; so many bytes may wait in its transport.
DAPHNE_BUFFER = 512 * 1024


def daphne_protocol(send: Any) -> Any:
    """Daphne's protocol object behind ``send``, None on any other server."""
    if isinstance(send, partial) and send.args:
        protocol = send.args[0]
        if type(protocol).__module__.startswith("daphne."):
            return protocol
    return None


def root_path(scope: dict[str, Any], send: Any) -> str:
    """The root path that the scope states.

    Daphne 4.2.3 takes it from a header, ``Daphne-Root-Path``, which any client can send: there it
    is empty.
    """
    return "" if daphne_protocol(send) is not None else scope.get("root_path") or ""


def sends_no_lifespan(send: Any) -> bool:
    """Whether the server never tells an application that it starts: Daphne 4.2.3."""
    return daphne_protocol(send) is not None


def before_shutdown(leave: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Have Daphne 4.2.3 await ``leave()`` when it stops, before its event loop ends."""
    from twisted.internet import defer, reactor

    def trigger() -> Any:
        return defer.Deferred.fromFuture(asyncio.ensure_future(leave()))

    reactor.addSystemEventTrigger("before", "shutdown", trigger)


def break_off(send: Any) -> bool:
    """Break the connection off where an exception would not; return whether that was needed.

    Daphne 4.2.3 leaves the connection open when an application raises after its response has
    started, and stops looking after all other applications.
    """
    protocol = daphne_protocol(send)
    if protocol is None:
        return False
    if protocol.transport is not None:
        protocol.transport.abortConnection()
    return True


def paced(send: Any) -> Any:
    """A ``send`` that waits for a slow client.

    Daphne 4.2.3 buffers whatever it is given.
    """
    protocol = daphne_protocol(send)
    transport = getattr(protocol, "transport", None)
    if not hasattr(transport, "dataBuffer"):
        return send

    async def send_paced(message: dict[str, Any]) -> None:
        await send(message)
        while (
            transport.connected
            and len(transport.dataBuffer) - transport.offset + transport._tempDataLen
            > DAPHNE_BUFFER
        ):
            await asyncio.sleep(0.01)

    return send_paced


def denial_status(status: int) -> int:
    """The status of a denial that every server can send.

    A 1xx would be forwarded as it is by Uvicorn 0.54 and Hypercorn 0.18 (a 101 would open the
    socket); Uvicorn 0.54 also fails on a status that Python's ``http.HTTPStatus`` does not know.
    """
    if status < 200 or status > 599:
        return 500
    try:
        return int(HTTPStatus(status))
    except ValueError:
        return status // 100 * 100


def denial_headers(send: Any, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a denial that this server can send.

    Granian 2.8.7 dies on a header name that comes twice: repeats are merged with a comma, and of
    cookies, which cannot be merged, the first is kept.
    """
    if type(getattr(send, "__self__", send)).__module__.partition(".")[0] not in (
        "granian",
        "_granian",
        "builtins",
    ):
        return headers
    merged: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        if name not in merged:
            merged[name] = value
        elif name != b"set-cookie":
            merged[name] += b"," + value
    return list(merged.items())
