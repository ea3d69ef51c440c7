"""Nothing is left in a server's process after thousands of connections, many broken off."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass

import pytest

from tests.apps.soakapp import HANDSHAKE_THREADS, THREADS
from tests.support import clients
from tests.support.clients import HOST
from tests.support.sent import FILLER
from tests.support.servers import TRACEBACK, running, wait_until

WEBSOCKETS = 1500
REQUESTS = 6000
SENT = 1500
#: A flood takes the server half a second: one of so many senders is one.
FLOODS = 250
#: Seconds that all of them may take.
LIMIT = 180
CLIENTS = 48

#: The tasks of Uvicorn that serves one request: its own, two of lifespan's, and the
#: request's.
IDLE_TASKS = 4

#: Bytes by which resident memory may differ: it goes up and down by some MiB. What is small shows
#: in the number of blocks that the interpreter has allocated, each of 512 bytes or less.
MARGIN = 8 * 2**20

pytestmark = pytest.mark.soak


def head(request, *lines):
    return "\r\n".join([f"{request} HTTP/1.1", f"Host: {HOST}", *lines, "", ""]).encode()


def frame(opcode, payload):
    """A client's frame, masked with zeros (RFC 6455 section 5.2)."""
    return bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


@dataclass
class Step:
    """What a client sends, and the end of what then comes, which is ``length`` bytes or more."""

    sent: bytes
    end: bytes
    length: int


BLOCK = FILLER[:8192]
#: Each is the steps of one conversation.
REQUESTS_SENT = [
    [Step(head("GET /page"), b"\r\n\r\nA Pyramid page", 140)],
    [
        Step(
            head("POST /upload", f"Content-Length: {len(BLOCK)}") + BLOCK,
            b"\r\n\r\n" + BLOCK,
            len(BLOCK),
        )
    ],
    [
        Step(
            head("POST /upload", "Transfer-Encoding: chunked")
            + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BLOCK), BLOCK),
            b"\r\n\r\n" + BLOCK,
            len(BLOCK),
        )
    ],
    [Step(head("GET /download"), b"\r\n\r\n" + FILLER[:4096] * 64, 2**18)],
]
WEBSOCKETS_SENT = [
    [
        Step(
            head(
                f"GET /ws/{kind}",
                *clients.UPGRADE,
            ),
            b"\r\n\r\n",
            100,
        ),
        Step(frame(1, b"hello") * 3, b"\x81\x05hello" * 3, 21),
        Step(frame(8, b"\x03\xe8"), b"\x88\x02\x03\xe8", 4),
    ]
    for kind in ("plain", "guarded")
]


#: What sends and does not receive, and what its clients send before they leave.
SENDERS = [
    *(
        (head(f"GET {path}", *clients.UPGRADE), frame(1, b"unread"))
        for path in ("/sender", "/waits", "/sender/plain")
    ),
    (head("GET /stream/paced"), b""),
]
FLOOD = (head("GET /stream/flood"), b"")


class Load:
    """``websockets`` and ``requests`` from :data:`CLIENTS` clients, in an order of ``chance``.

    A tenth of each is broken off, at a moment of ``chance``: somewhere in what is sent, or in what
    comes back. Connections are kept for the next request until then. ``outcome`` counts what
    became of them.
    """

    def __init__(self, server, chance, websockets, requests):
        self.server = server
        self.outcome = Counter()
        work = []
        for kind, conversations, count in (
            ("websocket", WEBSOCKETS_SENT, websockets),
            ("request", REQUESTS_SENT, requests),
        ):
            for number in range(count):
                steps = chance.choice(conversations)
                moment = None if number % 10 else chance.uniform(0, 2 * len(steps))
                work.append((kind, steps, moment))
        chance.shuffle(work)
        self._work = iter(work)

    async def run(self, limit):
        """Do it, in ``limit`` seconds at most."""
        work = asyncio.gather(*(self._client() for _ in range(CLIENTS)))
        await asyncio.wait_for(work, limit)

    async def _client(self):
        kept = []
        for kind, steps, moment in self._work:
            if kind == "request" and kept:
                reader, writer = kept.pop()
            else:
                reader, writer = await asyncio.open_connection(HOST, self.server.port)
            if moment is None:
                for step in steps:
                    writer.write(step.sent)
                    await _read(reader, step.end)
                self.outcome[kind] += 1
            else:
                await _break_off(reader, writer, steps, moment)
                self.outcome[f"{kind} broken off"] += 1
            if kind == "request" and moment is None:
                kept.append((reader, writer))
            else:
                await _close(writer)
        for _, writer in kept:
            await _close(writer)


async def _read(reader, end):
    came = b""
    while not came.endswith(end):
        chunk = await reader.read(2**16)
        assert chunk, f"the server closed the connection after {came[:500]!r}"
        came += chunk


async def _break_off(reader, writer, steps, moment):
    """Go away at ``moment``, where each step has one unit for sending and one for reading."""
    number, moment = divmod(moment, 2)
    for step in steps[: int(number)]:
        writer.write(step.sent)
        await _read(reader, step.end)
    step = steps[int(number)]
    writer.write(step.sent[: int(moment * len(step.sent))])
    await writer.drain()
    await reader.readexactly(int(max(0, moment - 1) * step.length))
    writer.transport.abort()


async def _close(writer):
    writer.close()
    await writer.wait_closed()


async def leave_senders(server, chance, count):
    """Open ``count`` connections to what only sends, and leave each of them."""
    work = iter(
        [FLOOD if not number % FLOODS else chance.choice(SENDERS) for number in range(count)]
    )

    async def client():
        for request, unread in work:
            reader, writer = await asyncio.open_connection(HOST, server.port)
            writer.write(request)
            await reader.readuntil(b"tick")
            writer.write(unread * chance.randrange(5))
            if chance.randrange(2):
                writer.transport.abort()
            elif unread:
                writer.write(frame(8, b"\x03\xe8"))
            await _close(writer)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def held(server):
    """What the server's process holds while it serves nobody else."""
    answer = {}

    def at_rest():
        answer.update(clients.get(server, "/held").json)
        return answer["tasks"] == IDLE_TASKS

    wait_until(at_rest, "the end of all tasks", server)
    return answer


#: The application, and it within a mount and middleware; the latter with a third of the load.
SERVED = [("app", 1), ("around", 3)]


@pytest.fixture
def chance():
    """Random numbers, whose seed is shown where the test fails."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    return random.Random(seed)


def soaked(app, directory):
    """Run ``app`` of ``soakapp.py``, on a server that does not log each request."""
    options = ["--no-access-log", "--log-level", "warning"]
    return running("uvicorn-sansio", directory, f"tests.apps.soakapp:{app}", options)


@pytest.mark.parametrize("app, part", SERVED)
def test_nothing_is_left_of_thousands_of_connections(app, part, tmp_path, chance):
    with soaked(app, tmp_path) as server:
        idle = held(server)
        # Threads are started, and caches are filled.
        warming = Load(server, chance, WEBSOCKETS // 3, REQUESTS // 3)
        asyncio.run(warming.run(LIMIT))
        before = held(server)
        websockets, requests = WEBSOCKETS // part, REQUESTS // part
        load = Load(server, chance, websockets, requests)
        asyncio.run(load.run(LIMIT))
        after = held(server)
        print(f"idle {idle}, before {before}, after {after}")
        log = server.logged()
    assert load.outcome == {
        "websocket": websockets * 9 // 10,
        "websocket broken off": websockets // 10,
        "request": requests * 9 // 10,
        "request broken off": requests // 10,
    }
    # Those of the pools, and the event loop's own.
    assert before["threads"] <= after["threads"] <= THREADS + HANDSHAKE_THREADS + 1
    assert after["files"] == before["files"] == idle["files"]
    assert after["blocks"] <= before["blocks"] + websockets + requests
    assert after["memory"] <= before["memory"] + MARGIN
    assert TRACEBACK not in log


@pytest.mark.parametrize("app, part", SERVED)
def test_nothing_is_left_of_senders_whose_clients_have_left(app, part, tmp_path, chance):
    with soaked(app, tmp_path) as server:
        asyncio.run(asyncio.wait_for(leave_senders(server, chance, SENT // 3), LIMIT))
        before = held(server)
        asyncio.run(asyncio.wait_for(leave_senders(server, chance, SENT // part), LIMIT))
        after = held(server)
        print(f"before {before}, after {after}")
        log = server.logged()
    assert after["files"] == before["files"]
    assert after["blocks"] <= before["blocks"] + SENT // part
    assert after["memory"] <= before["memory"] + MARGIN
    assert TRACEBACK not in log
