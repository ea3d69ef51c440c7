"""How a no is sent: to an http request, or to a websocket's handshake.

Who says no: ``application`` (no consumer, a bad path), ``connection.endpoint`` (limits, origins,
the handshake), ``connection.http`` and ``connection.websocket`` (errors), ``websocket.face``
(``deny`` and ``close`` of a function). A websocket that is open already gets a close, from
``connection.websocket``.
"""

import contextlib
import contextvars
import http.client
import logging
from functools import partial
from typing import Any

from pyramid.request import Request
from pyramid.response import Response

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.contexts import adopt, context_of
from pyramid_asgi_consumers.headers import Headers, checked_headers
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

_PLAIN_TEXT = (b"content-type", b"text/plain; charset=utf-8")


async def refuse(
    scope: dict[str, Any],
    send: Any,
    status: int,
    headers: Headers | None = None,
    body: bytes = b"",
    server: quirks.Server | None = None,
) -> None:
    """Answer the request or the handshake that ``scope`` describes, and that goes no further.

    Without ``headers`` it is a line of plain text, which says no more than the status. ``server``
    is what serves the connection; None looks for it. A client that has left gets nothing.

    A websocket's client gets this where the server offers ``websocket.http.response`` (ASGI's
    Websocket Denial Response), with a status that servers can send as a denial; else
    ``websocket.close``, which servers turn into a bare 403.
    """
    if scope["type"] == "http":
        try:
            await _answer(scope, send, status, headers, body)
        except OSError:
            pass
        except RuntimeError as error:
            if not quirks.is_of_a_closed_transport(error):
                raise
    else:
        with contextlib.suppress(*quirks.CLIENT_WAS_FASTER):
            await _deny(scope, send, status, headers, body, server)


async def _answer(
    scope: dict[str, Any], send: Any, status: int, headers: Headers | None, body: bytes
) -> None:
    if headers is None:
        body = f"{status} {http.client.responses[status]}\n".encode()
        headers = [_PLAIN_TEXT, (b"content-length", str(len(body)).encode())]
        # The rest of an upload is not read, so the connection cannot serve another request. HTTP/2
        # has no such header (RFC 9113 section 8.2.2).
        if status in (400, 413) and scope.get("http_version", "1.1").startswith("1"):
            headers.append((b"connection", b"close"))
        if scope["method"] == "HEAD":
            body = b""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _deny(
    scope: dict[str, Any],
    send: Any,
    status: int,
    headers: Headers | None,
    body: bytes,
    server: quirks.Server | None,
) -> None:
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1000, "reason": ""})
        return
    if server is None:
        server = quirks.served_by(scope, send)
    status = server.denial_status(status)
    if headers is None:
        headers, body = [_PLAIN_TEXT], f"{status}\n".encode()
    headers = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    headers = server.denial_headers(headers)
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


def rendered(response: Response) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of ``response``; an HTTP exception makes its page.

    Raises :class:`.WSGIError` for headers that cannot be sent.
    """
    response = Request.blank("/").get_response(response)
    return response.status_int, checked_headers(response.headerlist), response.body


async def answer_nobody(scope: dict[str, Any], send: Any) -> None:
    """End an http request whose client has left before its response.

    Middleware may wait for one: Starlette's ``BaseHTTPMiddleware`` takes a request that ends
    without a response for an error.
    """
    await refuse(scope, send, 400)


async def fail(
    scope: dict[str, Any],
    send: Any,
    started: bool,
    error: BaseException,
    context: contextvars.Context | None = None,
    server: quirks.Server = quirks.PLAIN,
) -> None:
    """End an http request whose application raised ``error``.

    Logged, and answered with 500. Where the response has ``started`` the server is to break the
    connection off: ``error`` is raised for it, and logged by it, but on Daphne. ``context`` is that
    in which the application ran: who reports errors (Sentry) notes there that it has done so.
    ``server`` is what serves the connection.
    """
    context = context_of(error) if context is None else context.copy()
    if started and not server.break_off():
        adopt(context)
        raise error
    report = partial(
        log.error,
        "%s %s failed",
        Shown(scope["method"], quoted=False),
        Shown(scope["path"]),
        exc_info=error,
    )
    # The answer is sent in the server's own context: it may begin the next request in that.
    context.run(report)
    if not started:
        await refuse(scope, send, 500)
