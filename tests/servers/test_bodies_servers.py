"""Bodies that are async iterables, on every ASGI server: see ``bodiesapp.py``."""

import contextlib
import os
import socket

import pytest

from tests.support import clients
from tests.support.sent import MIB
from tests.support.servers import TRACEBACK, running, wait_until

pytestmark = pytest.mark.streams

APP = "tests.apps.bodiesapp:app"

# Name and options of each. What servers wait for at most when they stop is more than may pass here.
SERVERS = {
    "daphne": ("daphne", ("--application-close-timeout", "60")),
    "uvicorn with httptools": ("uvicorn-sansio", ("--http", "httptools")),
    "uvicorn with h11": ("uvicorn-sansio", ("--http", "h11", "--loop", "asyncio")),
    "hypercorn": ("hypercorn", ()),
    "granian": ("granian", ()),
    "gunicorn": ("gunicorn", ()),
}


@contextlib.contextmanager
def served(kind, directory):
    name, options = SERVERS[kind]
    with running(name, directory, APP, options) as server:
        yield server


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    with served(request.param, tmp_path_factory.mktemp("server")) as server:
        yield server


def happened(server, what):
    return clients.get(server, "/state").json.get(what, 0)


@contextlib.contextmanager
def opened(server, path, **options):
    """A connection on which ``path`` was asked for."""
    with clients.raw(server, **options) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {clients.HOST}\r\n\r\n".encode())
        yield connection


def test_chunks_come_as_they_are_made(server):
    answer = clients.get(server, "/generator")
    assert answer.whole
    times = [float(line) for line in answer.body.split()]
    assert times == sorted(times)
    assert len(times) == 3


def go(connection, how):
    if how == "resets":
        clients.leave(connection)
    else:
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("kind", ["silent", "waiting", "flood", "slow"])
def test_a_client_that_leaves_closes_it(server, kind, how):
    since = server.position()
    name = f"{kind} {how}"
    path = f"/body/{kind}?name={kind}%20{how}"
    with opened(server, path) as connection:
        if kind == "silent":
            wait_until(lambda: happened(server, f"{name} begun"), "its begin", server)
        elif kind == "flood":
            clients.read_bytes(connection, 2 * MIB)
        else:
            clients.read_until(connection, b"begun\n" if kind == "waiting" else b"tick\n")
        go(connection, how)
        wait_until(lambda: happened(server, f"{name} ended"), "its end", server)
    assert TRACEBACK not in server.logged(since)


def test_a_slow_client_holds_it_back(server):
    with opened(server, "/body/flood?name=held", receive_buffer=65536) as connection:
        clients.read_bytes(connection, MIB)
        # Nothing more is read: what the kernel keeps is bounded, and so is what the server does.
        memory = [clients.get(server, "/memory").json["resident"] for _ in range(5)]
        assert memory[-1] - memory[0] < 16 * 1024
        clients.leave(connection)
    wait_until(lambda: happened(server, "held ended"), "its end", server)


def test_what_breaks_off_is_not_whole(server):
    answer = clients.get(server, "/body/raising?name=raising")
    assert not answer.whole
    # Daphne drops what it has not sent yet.
    assert b"begun\n".startswith(answer.body)
    answer = clients.get(server, "/body/download?name=short&length=100")
    assert not answer.whole


def test_a_head_closes_it_unread(server):
    answer = clients.get(server, "/body/waiting?name=head", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert not happened(server, "head begun")


STREAMS = 500
#: KiB for each stream. Granian 2.8.9 takes 28 for one of a bare application, others 10 to 19.
MOST = 32
MOST_ON_GRANIAN = 48
# What measures coverage needs memory, too.
MEASURED = 8 if "COVERAGE_PROCESS_CONFIG" in os.environ else 0


def test_500_slow_streams_hold_no_thread_and_little_memory(server):
    # What a server needs for the first of them is not counted.
    with contextlib.ExitStack() as stack:
        open_streams(server, stack, 50)
        before = clients.get(server, "/memory").json
        open_streams(server, stack, STREAMS)
        wait_until(lambda: happened(server, "open") >= STREAMS + 50, "all of them", server)
        after = clients.get(server, "/memory").json
        assert clients.get(server, "/").body == b"A Pyramid page"
    each = (after["resident"] - before["resident"]) / STREAMS
    print(f"{each:.1f} KiB for each stream")
    assert each < (MOST_ON_GRANIAN if server.name == "granian" else MOST) + MEASURED
    wait_until(lambda: happened(server, "open") == 0, "the end of all", server)


def open_streams(server, stack, number):
    connections = [
        stack.enter_context(opened(server, "/body/slow?name=many")) for _ in range(number)
    ]
    for connection in connections:
        clients.read_until(connection, b"tick\n")


@pytest.mark.parametrize("kind", SERVERS)
def test_what_has_no_end_is_broken_off_when_the_server_stops(kind, tmp_path):
    with served(kind, tmp_path) as server, contextlib.ExitStack() as stack:
        streams = [
            stack.enter_context(opened(server, f"/body/{name}?name={name}"))
            for name in ("waiting", "slow", "flood")
        ]
        for stream in streams:
            clients.read_bytes(stream, 64)
        with opened(server, "/body/ending?name=ending") as whole:
            clients.read_until(whole, b"begun\n")
            server.process.terminate()
            assert clients.read_until(whole, b"0\r\n\r\n").endswith(b"the end\n\r\n0\r\n\r\n")
        for stream in streams:
            assert not rest(stream).endswith(b"0\r\n\r\n")
        server.ended()
        log = server.logged()
    for name in ("waiting", "slow", "flood", "ending"):
        assert log.count(f"{name} is left") == 1


def rest(connection):
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(MIB):
            data = (data + chunk)[-64:]
    return data
