"""Connections of threads that wait for Redis until the thread's deadline, and no longer.

``this_thread.deadline`` is set by ``blocking.py``. redis-py knows only timeouts of a socket, which
begin anew with each address, each call and each byte.
"""

import math
import threading
import time
from typing import Any

from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection


class _ThisThread(threading.local):
    #: When what this thread waits for is given up, as ``time.monotonic()`` counts.
    deadline = math.inf


this_thread = _ThisThread()


class _TimedSocket:
    def __init__(self, connected: Any) -> None:
        self._socket = connected

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def _wait_no_longer(self) -> None:
        # With 0 redis-py looks whether anything is there.
        if self._socket.gettimeout() != 0:
            left = this_thread.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(None if left == math.inf else left)

    def recv(self, *arguments: Any) -> bytes:
        self._wait_no_longer()
        return self._socket.recv(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self._wait_no_longer()
        return self._socket.recv_into(*arguments)

    def sendall(self, data: bytes) -> None:
        # An SSLSocket, too, begins anew with each part.
        rest = memoryview(data)
        while rest:
            self._wait_no_longer()
            rest = rest[self._socket.send(rest) :]


class _Timed:
    # redis-py asks before each address that it tries.
    @property
    def socket_connect_timeout(self) -> float | None:
        left = max(this_thread.deadline - time.monotonic(), 0.001)
        return None if left == math.inf else left

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float | None) -> None:
        """The deadline says it."""

    def _connect(self) -> _TimedSocket:
        return _TimedSocket(super()._connect())  # type: ignore[misc]  # of the class behind it


class _TimedConnection(_Timed, Connection):
    pass


class _TimedSSLConnection(_Timed, SSLConnection):
    pass


class _TimedUnixConnection(_Timed, UnixDomainSocketConnection):
    pass


#: redis-py's kinds of connections, and what stands in for each.
TIMED_CONNECTIONS = {
    Connection: _TimedConnection,
    SSLConnection: _TimedSSLConnection,
    UnixDomainSocketConnection: _TimedUnixConnection,
}
