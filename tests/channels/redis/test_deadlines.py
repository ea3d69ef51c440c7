"""A thread waits for Redis until its deadline, whatever trickles in."""

import asyncio
import socket
import time

import pytest

from pyramid_asgi_consumers.channels.redis import RedisBackend, deadlines
from pyramid_asgi_consumers.exceptions import PublishRefused, PublishUnknown
from tests.support.forwarder import Forwarder


async def test_a_thread_is_held_no_longer_than_the_timeout_though_bytes_trickle(server):
    async with Forwarder(server.port) as forwarder:
        backend = RedisBackend(forwarder.url, timeout=2.0)

        async def publish():
            (result,) = await asyncio.to_thread(backend.publish_many, [("a", b"j1")])
            return result

        assert isinstance(await publish(), str)
        forwarder.pace = 1
        # What was read for before there was a pace still comes at once.
        assert isinstance(await publish(), str)
        # Each byte of an answer, of 25, comes in time.
        backend.blocking.timeout = 0.1
        assert isinstance(await publish(), PublishUnknown)
        # Nor is a connection made in that time.
        backend.blocking.timeout = 0.05
        assert isinstance(await publish(), PublishRefused)
        forwarder.pace = None
        backend.blocking.timeout = 2.0
        assert isinstance(await publish(), str)
        backend.blocking.pool.disconnect()


def test_a_socket_waits_until_the_threads_deadline(monkeypatch):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        timed = deadlines._TimedSocket(ours)
        theirs.sendall(b"one two")
        assert timed.recv(3) == b"one"
        part = bytearray(4)
        assert (timed.recv_into(part), part) == (4, b" two")
        monkeypatch.setattr(deadlines.this_thread, "deadline", 0.0)
        for use in (lambda: timed.recv(1), lambda: timed.sendall(b"x")):
            with pytest.raises(TimeoutError):
                use()
        timed.settimeout(0)
        with pytest.raises(BlockingIOError):
            timed.recv(1)


def test_all_addresses_of_a_server_share_the_threads_time(monkeypatch):
    backend = RedisBackend("redis://localhost/0", timeout=2.0)
    connection = backend.blocking.pool.make_connection()
    assert connection.socket_connect_timeout is None
    monkeypatch.setattr(deadlines.this_thread, "deadline", time.monotonic() + 1)
    assert connection.socket_connect_timeout <= 1
    monkeypatch.setattr(deadlines.this_thread, "deadline", time.monotonic())
    assert connection.socket_connect_timeout == 0.001
