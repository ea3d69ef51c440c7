"""The event loop of a test, where sockets are forbidden, too."""

import _socket
import asyncio
import socket


def new_event_loop() -> asyncio.AbstractEventLoop:
    # pytest-socket 0.8 (--disable-socket) forbids sockets by a class in the place of Python's.
    if socket.socket.__module__ == "socket":
        return asyncio.new_event_loop()
    return _UnguardedLoop()


class _UnguardedLoop(asyncio.SelectorEventLoop):
    """Wakes itself through sockets of its own, which lead nowhere else."""

    def _make_self_pipe(self) -> None:
        # asyncio makes them by socket.socketpair(), and knows no other way.
        self._ssock, self._csock = _socket.socketpair()
        self._ssock.setblocking(False)
        self._csock.setblocking(False)
        self._internal_fds += 1
        self._add_reader(self._ssock.fileno(), self._read_from_self)
