"""The clients of the servers under test: plain sockets, ``http.client`` and ``websockets``."""

import asyncio
import contextlib
import http.client
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close
from websockets.sync.client import ClientConnection, connect

from tests.support.sent import MIB

HOST = "127.0.0.1"
DEADLINE = 20


@dataclass
class Answer:
    """An HTTP response; ``whole`` is false where the connection broke off before its end.

    ``status`` is None where it broke off before the head was read.
    """

    status: int | None
    headers: http.client.HTTPMessage
    body: bytes
    whole: bool = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(
    server,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | Iterable[bytes] | None = None,
) -> Answer:
    """One request on a connection of its own. An iterable ``body`` is sent in chunks."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)
    answer = Answer(None, http.client.HTTPMessage(), b"", False)
    # What had come before a reset is lost.
    with contextlib.closing(connection), contextlib.suppress(ConnectionResetError):
        connection.request(method, path, body=body, headers=dict(headers or {}))
        with connection.getresponse() as response:
            answer.status, answer.headers = response.status, response.headers
            try:
                answer.body = response.read()
                answer.whole = True
            except http.client.IncompleteRead as error:
                answer.body = error.partial
    return answer


@contextlib.contextmanager
def raw(server, *, receive_buffer: int | None = None) -> Iterator[socket.socket]:
    """A connection whose bytes the caller writes and reads.

    ``receive_buffer`` is how many bytes the kernel keeps for a client that does not read.
    """
    with socket.socket() as connection:
        connection.settimeout(DEADLINE)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect((HOST, server.port))
        yield connection


def leave(connection: socket.socket) -> None:
    """Go away without a word: the server sees a reset connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # A thread that reads keeps the connection alive until it is woken; nothing is sent by that.
    other = connection.dup()
    connection.close()
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_RD)
    other.close()


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """Read until ``mark`` has come; return all that came."""
    data = b""
    while mark not in data:
        chunk = connection.recv(65536)
        assert chunk, f"the server closed the connection after {data!r}"
        data += chunk
    return data


def read_to_end(connection: socket.socket) -> int:
    """Read until the server closes; return how many bytes came."""
    return sum(iter(lambda: len(connection.recv(MIB)), 0))


def read_bytes(connection: socket.socket, count: int) -> None:
    """Read ``count`` bytes and drop them."""
    while count:
        chunk = connection.recv(min(count, 65536))
        assert chunk, f"the server closed the connection {count} bytes too early"
        count -= len(chunk)


#: The lines of a websocket's handshake.
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def standing_still(count: Callable[[], int]) -> int:
    """What ``count()`` is once it no longer changes."""
    end = time.monotonic() + DEADLINE
    seen: list[int] = []
    while len(seen) < 20 or not seen[-1] or len(set(seen[-20:])) > 1:
        assert time.monotonic() < end, f"it still changes: {seen[-20:]}"
        seen.append(count())
        time.sleep(0.02)
    return seen[-1]


def handshake_status(server, path: str, *more: str) -> int | None:
    """The status that answers a websocket's handshake, None where nothing does.

    ``more`` are header lines.
    """
    with raw(server) as connection:
        lines = (f"GET {path} HTTP/1.1", f"Host: {HOST}", *UPGRADE, *more)
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        with connection.makefile("rb") as file:
            line = file.readline()
    return int(line.split()[1]) if line else None


def websocket(server, path: str, *, origin: str | None = None, **options: Any) -> ClientConnection:
    """A websocket to ``path``; ``options`` are those of ``websockets.sync.client.connect``."""
    return connect(
        f"ws://{HOST}:{server.port}{path}",
        origin=origin,
        proxy=None,
        compression=None,
        max_size=None,
        open_timeout=DEADLINE,
        **{"close_timeout": DEADLINE, **options},
    )


def denial(server, path: str, *, origin: str | None = None, **options: Any):
    """The response that refuses a websocket: ``status_code``, ``headers`` and ``body``."""
    with pytest.raises(InvalidStatus) as refused:
        websocket(server, path, origin=origin, **options).__enter__()
    return refused.value.response


def closed(connection: ClientConnection) -> Close | None:
    """The code and reason with which the server closes, None where it breaks off without them."""
    try:
        while True:
            connection.recv(DEADLINE)
    except ConnectionClosed as error:
        return error.rcvd


async def keep_alive_load(server, path: str, *, connections: int, requests: int) -> Counter:
    """Send ``requests`` over ``connections`` that are kept; count what came back.

    ``path`` has a ``{}`` for the number of the request, which the response's body must be. Counted
    are statuses, and as ``"wrong"`` bodies that belong to another request.
    """
    answers: Counter = Counter()
    numbers = iter(range(requests))

    async def client() -> None:
        reader, writer = await asyncio.open_connection(HOST, server.port)
        try:
            for number in numbers:
                request = f"GET {path.format(number)} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
                writer.write(request.encode())
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next(line for line in lines if line.startswith(b"content-length:"))
                body = await reader.readexactly(int(length.partition(b":")[2]))
                answers[int(head.split(None, 2)[1])] += 1
                answers["wrong"] += body != str(number).encode()
        finally:
            writer.close()
            await writer.wait_closed()

    await asyncio.wait_for(asyncio.gather(*(client() for _ in range(connections))), 3 * DEADLINE)
    return answers
