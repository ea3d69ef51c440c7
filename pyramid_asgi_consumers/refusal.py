"""The one way to refuse a websocket."""

import contextlib
from typing import Any

from pyramid.request import Request
from pyramid.response import Response

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.wsgi.headers import checked_headers


async def deny(
    scope: dict[str, Any],
    send: Any,
    status: int,
    headers: list[tuple[bytes, bytes]] | None = None,
    body: bytes | None = None,
) -> None:
    """Refuse the handshake that ``scope`` describes.

    Where the server offers ``websocket.http.response`` (ASGI's Websocket Denial Response) the
    client gets ``status``, ``headers`` and ``body``; else ``websocket.close``, which servers turn
    into a bare 403. Without ``headers`` and ``body`` it is a line of plain text. A status that
    servers cannot send as a denial becomes one that they can. A client that has left gets nothing.
    """
    with contextlib.suppress(*quirks.CLIENT_WAS_FASTER):
        await _deny(scope, send, status, headers, body)


async def _deny(scope, send, status, headers, body):
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1000, "reason": ""})
        return
    server = quirks.served_by(scope, send)
    status = server.denial_status(status)
    if headers is None:
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
    if body is None:
        body = f"{status}\n".encode()
    headers = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    headers = server.denial_headers(headers)
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})


def rendered(response: Response) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Return status, headers and body of ``response``; an HTTP exception makes its page.

    Raises :class:`.WSGIError` for headers that cannot be sent.
    """
    response = Request.blank("/").get_response(response)
    return response.status_int, checked_headers(response.headerlist), response.body
