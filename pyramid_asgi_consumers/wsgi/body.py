"""Reads the body of a request before a WSGI application is called with it."""

import asyncio
import io
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, BinaryIO

from pyramid_asgi_consumers.exceptions import BadRequest, BodyTooLarge, ClientDisconnected

# Up to so many bytes stay in memory; what is longer goes to a temporary file.
MEMORY = 512 * 1024

Receive = Callable[[], Awaitable[dict[str, Any]]]


class SharedReceive:
    """``receive``, for any number of tasks at once, of which the server hears one at a time.

    Each of them gets the next message, and who comes after ``http.disconnect`` gets that again.
    """

    _is_waiting = False
    _left: dict[str, Any] | None = None
    # What those wait for who are not the one that the server hears.
    _told: "asyncio.Future[dict[str, Any] | None] | None" = None

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    async def __call__(self) -> dict[str, Any]:
        while self._is_waiting:
            told = self._told
            if told is None:
                told = self._told = asyncio.get_running_loop().create_future()
            # Not the future itself, which would be cancelled for all.
            await asyncio.wait((told,))
            # None comes of one that was cancelled: another is to take its place.
            if (message := told.result()) is not None:
                return message
        if self._left is not None:
            return self._left
        message = None
        self._is_waiting = True
        try:
            message = await self._receive()
        finally:
            self._is_waiting = False
            told, self._told = self._told, None
            if told is not None:
                told.set_result(message)
        if message["type"] == "http.disconnect":
            self._left = message
        return message


def has_no_body(scope: Mapping[str, Any]) -> bool:
    """Whether a GET or HEAD request declares none, so that there is nothing to wait for.

    RFC 9112 section 6.3. In HTTP/2 a body is not declared. Those of other methods are waited for
    anyhow: whatever stands between the client and here may have taken the declaration away.
    """
    if scope["method"] not in ("GET", "HEAD") or scope.get("http_version") not in ("1.1", "1.0"):
        return False
    for name, _ in scope["headers"]:
        if name in (b"content-length", b"transfer-encoding"):
            return False
    return True


async def read_body(receive: Receive, length: int | None, limit: int) -> tuple[BinaryIO, int]:
    """Read a request's body to its end; return it as a file at its start, and its size in bytes.

    ``length`` is what the request declares as its Content-Length, None where it declares none;
    ``limit`` is the greatest size, in bytes, that is read. The caller closes the file.

    Raises :class:`BodyTooLarge` as soon as ``limit`` is passed, :class:`ClientDisconnected` where
    the client leaves before the end, :class:`BadRequest` where ``length`` is not what came.
    """
    if length is not None and length > limit:
        raise BodyTooLarge(limit)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body = message.get("body", b"")
        if len(body) <= MEMORY:
            _check(len(body), length, limit)
            return io.BytesIO(body), len(body)
    return await _read_on(message, receive, length, limit)


async def _read_on(
    message: dict[str, Any], receive: Receive, length: int | None, limit: int
) -> tuple[BinaryIO, int]:
    loop = asyncio.get_running_loop()
    file: BinaryIO | None = None
    size = 0
    pending: list[bytes] = []
    pending_size = 0
    try:
        while True:
            if message["type"] != "http.request":
                raise ClientDisconnected("The client left during its upload")
            if chunk := message.get("body", b""):
                size += len(chunk)
                if size > limit:
                    raise BodyTooLarge(limit)
                pending.append(chunk)
                pending_size += len(chunk)
            if pending_size > MEMORY:
                if file is None:
                    file = tempfile.TemporaryFile()
                await loop.run_in_executor(None, file.write, b"".join(pending))
                pending, pending_size = [], 0
            if not message.get("more_body"):
                break
            message = await receive()
        _check(size, length, limit)
        rest = b"".join(pending)
        if file is None:
            return io.BytesIO(rest), size
        await loop.run_in_executor(None, _finish, file, rest)
        return file, size
    except BaseException:
        if file is not None:
            # In a thread too: where the request was cancelled, a write may be under way.
            loop.run_in_executor(None, file.close)
        raise


def _finish(file: BinaryIO, rest: bytes) -> None:
    file.write(rest)
    file.seek(0)


def _check(size: int, length: int | None, limit: int) -> None:
    if size > limit:
        raise BodyTooLarge(limit)
    if length is not None and size != length:
        raise BadRequest(f"Content-Length is {length}, but {size} bytes came")
