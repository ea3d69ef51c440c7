"""What the benchmarks share: tables and their rounds, servers, connections, what is counted."""

import asyncio
import contextlib
import importlib.util
import os
import random
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parent.parent
#: The server's, and the clients'.
PROCESSORS = sorted(os.sched_getaffinity(0))
#: Seconds that anything may take.
DEADLINE = 20
#: What a table may need that is no Python package.
PROGRAMS = ("redis-server", "wrk")


class Failure(Exception):
    """Something that was to be measured does not work."""


# Tables.


@dataclass(frozen=True)
class Variant:
    """What is measured: the name of what makes it, and the packages and programs that it needs."""

    app: str = ""
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        return [need for need in self.needs if not is_there(need)]


@dataclass(frozen=True)
class Measured:
    """One measurement: a figure for each unit of the table, and how many answers were wrong."""

    figures: tuple[float, ...]
    wrong: int = 0


class Table:
    """What is measured of each variant, in turns.

    ``units`` are those of the figures, of which bars show the first; ``reference`` is the variant
    that ratios are to. ``rounds`` and ``seconds`` of a measurement have quick values, too, as
    ``sizes`` have, which are what else can be changed: the number of readers and the like.
    """

    name: str
    title: str
    units: tuple[str, ...]
    variants: dict[str, Variant]
    reference: str
    less_is_better = False
    #: Servers and clients have a processor each, where there are two.
    pinned = True
    rounds = 10
    seconds = 2.0
    quick_rounds = 1
    quick_seconds = 0.3
    sizes: dict[str, int] = {}
    quick_sizes: dict[str, int] = {}

    @contextlib.contextmanager
    def prepared(self, variants: Sequence[str], size: dict[str, int]) -> Iterator[Any]:
        """What all measurements share."""
        yield None

    def measure(self, variant: str, ground: Any, size: dict[str, int], seconds: float) -> Measured:
        raise NotImplementedError


@dataclass
class Results:
    """What came out: the measurements of each variant, one for each round."""

    table: Table
    rounds: int
    seconds: float
    size: dict[str, int]
    measured: dict[str, list[Measured]] = field(default_factory=dict)
    #: Why variants are not there.
    left_out: dict[str, str] = field(default_factory=dict)
    failed: bool = False


def run(
    table: Table,
    *,
    quick: bool = False,
    rounds: int | None = None,
    seconds: float | None = None,
    sizes: dict[str, int] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Results:
    """Measure all variants that can be, in another order each round.

    So what else the machine does falls on all of them.
    """
    size = {**table.sizes, **(table.quick_sizes if quick else {})}
    size.update({name: value for name, value in (sizes or {}).items() if name in size})
    rounds = rounds or (table.quick_rounds if quick else table.rounds)
    seconds = seconds or (table.quick_seconds if quick else table.seconds)
    results = Results(table, rounds, seconds, size)
    for name, variant in table.variants.items():
        if missing := variant.missing():
            results.left_out[name] = f"{', '.join(missing)} is missing"
        else:
            results.measured[name] = []
    measured = results.measured
    if not measured:
        return results
    # The servers have the first.
    os.sched_setaffinity(0, PROCESSORS[-1:] if table.pinned else PROCESSORS)
    with table.prepared(list(measured), size) as ground:
        for number in range(rounds):
            for variant in random.sample(list(measured), len(measured)):
                progress(f"round {number + 1} of {rounds}: {variant}")
                try:
                    found = table.measure(variant, ground, size, seconds)
                except (Failure, OSError, EOFError, asyncio.TimeoutError) as error:
                    # The others go on.
                    results.left_out[variant] = f"failed: {error!r}"
                    results.failed = True
                    del measured[variant]
                else:
                    measured[variant].append(found)
    return results


def is_there(need: str) -> bool:
    """Whether this machine has the program, or this Python the package."""
    if need in PROGRAMS:
        return shutil.which(need) is not None
    return importlib.util.find_spec(need) is not None


# Servers.


class Server:
    """A server that runs, in one process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def processor_time(self) -> float:
        """The seconds for which its threads have run (Linux)."""
        busy = 0
        for path in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            # A thread may end meanwhile.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                busy += int(path.read_text().split()[0])
        return busy / 1e9

    def memory(self) -> int:
        """The bytes that it has in memory (Linux)."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(
    app: str,
    *options: str,
    ws: str = "websockets-sansio",
    environ: dict[str, str] | None = None,
    pinned: bool = True,
) -> Iterator[Server]:
    """Uvicorn with what the factory ``app`` makes."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "--host", HOST, "--port", str(port)]
    command += ["--log-level", "critical", "--no-access-log", "--backlog", "2048", "--ws", ws]
    # The clients answer no pings.
    command += ["--ws-ping-interval", "100000", *options, app]
    with started(command, port, environ=environ, pinned=pinned) as server:
        yield server


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """The URL of a Redis that stores nothing."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--logfile", "/dev/null"]
    with started(command, port, pinned=False):
        yield f"redis://{HOST}:{port}/0"


@contextlib.contextmanager
def started(
    command: list[str],
    port: int,
    *,
    environ: dict[str, str] | None = None,
    pinned: bool = True,
    quiet: bool = False,
) -> Iterator[Server]:
    """Run ``command``, which is to listen on ``port``: on the first processor, or on any."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(environ or {})},
        stderr=subprocess.DEVNULL if quiet else None,
    )
    try:
        os.sched_setaffinity(process.pid, PROCESSORS[:1] if pinned else PROCESSORS)
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                socket.create_connection((HOST, port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Failure(f"{' '.join(command)} does not start") from None
                time.sleep(0.02)
        yield Server(process, port)
    finally:
        process.kill()
        process.wait()


# Connections.


def request(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {HOST}", *headers]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def handshake(path: str, *headers: str) -> bytes:
    """The request that opens a websocket (RFC 6455 section 4.1)."""
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    return request(path, *upgrade, key, *headers)


def of_client(text: str) -> bytes:
    """A final frame of a short text, masked with zeros (RFC 6455 section 5.2)."""
    payload = text.encode()
    return bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload


def of_server(text: str) -> bytes:
    """The same from a server, not masked."""
    payload = text.encode()
    return bytes([0x81, len(payload)]) + payload


def received(connection: socket.socket) -> bytes:
    """What comes next."""
    data = connection.recv(65536)
    if not data:
        raise Failure("the server has closed a connection")
    return data


def received_until(connection: socket.socket, is_whole: Callable[[bytes], bool]) -> bytes:
    """What comes, as soon as it is whole."""
    came = b""
    while not is_whole(came):
        came += received(connection)
    return came


def has_head(data: bytes) -> bool:
    return b"\r\n\r\n" in data


def has_frame(data: bytes) -> bool:
    return len(data) > 1 and len(data) >= 2 + (data[1] & 0x7F)


def opened(
    port: int, requests: Iterable[bytes], at_once: int = 16
) -> Iterator[tuple[socket.socket, bytes]]:
    """Connections that have sent these requests, each with the first that came for an answer.

    So many are under way at once.
    """
    requests = list(requests)
    for begin in range(0, len(requests), at_once):
        connections = []
        for data in requests[begin : begin + at_once]:
            connection = socket.create_connection((HOST, port), DEADLINE)
            connection.sendall(data)
            connections.append(connection)
        # From the end, where the answer comes last: who waits for each in turn is woken for each,
        # and on a busy machine that takes longer than the handshakes.
        came = [received_until(connection, has_head) for connection in reversed(connections)]
        yield from zip(connections, reversed(came), strict=True)


def websockets(port: int, requests: Iterable[bytes]) -> Iterator[tuple[socket.socket, bytes]]:
    """Open websockets, each with what came after the head of the answer."""
    for connection, came in opened(port, requests):
        head, _, rest = came.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise Failure(f"not a websocket: {head!r}")
        yield connection, rest


class Audience:
    """Connections that are all to get the same."""

    def __init__(self, connections: Iterable[socket.socket]) -> None:
        self.connections = {each.fileno(): each for each in connections}
        self._poll = select.epoll()
        for connection in self.connections.values():
            connection.setblocking(False)
            self._poll.register(connection, select.EPOLLIN)

    def close(self) -> None:
        self._poll.close()
        for connection in self.connections.values():
            connection.close()

    def right(self, is_whole: Callable[[bytes], bool], is_right: Callable[[bytes], bool]) -> int:
        """Wait until each has got a whole answer; return how many have got the right one."""
        came: dict[int, bytes] = {}
        right = 0
        waiting = len(self.connections)
        while waiting:
            ready = self._poll.poll(DEADLINE)
            if not ready:
                # The rest has been lost.
                break
            for fileno, _ in ready:
                data = came.get(fileno, b"") + received(self.connections[fileno])
                came[fileno] = data
                if is_whole(data):
                    waiting -= 1
                    right += is_right(data)
        return right


class Echoes(asyncio.Protocol):
    """Sends a message on an open websocket, and counts its echoes.

    While it is ``running`` it sends the next when the echo is there.
    """

    running = False

    def __init__(self, message: str) -> None:
        self._message, self._echo = of_client(message), of_server(message)
        self._received = bytearray()
        self.idle = asyncio.get_running_loop().create_future()
        self.idle.set_result(None)
        self.right = self.wrong = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def send(self) -> None:
        self.idle = asyncio.get_running_loop().create_future()
        self.transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) < len(self._echo):
            return
        if self._received == self._echo and not self.idle.done():
            self.right += 1
        else:
            self.wrong += 1
        self._received.clear()
        if self.running:
            self.transport.write(self._message)
        elif not self.idle.done():
            self.idle.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.idle.done():
            self.idle.set_exception(Failure("the server has closed a websocket"))


async def echoing(port: int, path: str, number: int, message: str) -> list[Echoes]:
    """So many websockets that can echo."""
    loop = asyncio.get_running_loop()
    made = []
    for connection, _ in websockets(port, [handshake(path)] * number):
        made.append((await loop.create_connection(lambda: Echoes(message), sock=connection))[1])
    return made


async def asked(
    port: int, path: str, body: bytes, seconds: float, per_second: float, *headers: str
) -> tuple[list[float], int]:
    """Ask for a page so often; return how many milliseconds each took, and how many were wrong."""
    reader, writer = await asyncio.open_connection(HOST, port)
    took = []
    wrong = 0
    begin = time.perf_counter()
    for number in range(round(seconds * per_second)):
        # Two of these do not go in step.
        due = begin + (number + random.random()) / per_second
        if time.perf_counter() < due:
            await asyncio.sleep(due - time.perf_counter())
            since = time.perf_counter()
        else:
            # It was kept waiting by the page before.
            since = due
        writer.write(request(path, *headers))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE)
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        got = await asyncio.wait_for(reader.readexactly(int(length)), DEADLINE)
        wrong += not head.startswith(b"HTTP/1.1 200") or got != body
        took.append((time.perf_counter() - since) * 1000)
    writer.close()
    return took, wrong


def wrk(port: int, path: str, connections: int, seconds: float) -> tuple[float, float, int]:
    """Ask for a page again and again, on so many connections at once.

    Returns how many right answers came in a second, how many milliseconds 99 of 100 took at most,
    and how many were wrong or did not come.
    """
    # It knows whole seconds only.
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    output = subprocess.run(
        [*command, "--timeout", "10s", f"http://{HOST}:{port}{path}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    total, duration = matched(r"(\d+) requests in ([\d.]+)s", output)
    p99, unit = matched(r"99% +([\d.]+)(us|ms|s)\b", output)
    wrong = 0
    if "Non-2xx or 3xx responses" in output:
        wrong = int(*matched(r"Non-2xx or 3xx responses: (\d+)", output))
    answered = int(total) - wrong
    if "Socket errors" in output:
        wrong += sum(
            map(int, matched(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output))
        )
    milliseconds = float(p99) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
    return answered / float(duration), milliseconds, wrong


def matched(pattern: str, text: str) -> Sequence[str]:
    found = re.search(pattern, text)
    if found is None:
        raise Failure(f"{pattern} is not to be found in {text!r}")
    return found.groups()


# What is counted.


def rates(server: Server, seconds: float, turn: Callable[[], tuple[int, int]]) -> Measured:
    """How much is right in a second, by the clock and by the server's processor time.

    ``turn`` is called for so long, and returns how much was right and how much was wrong.
    """
    _, early = turns(seconds / 4, turn)
    start, busy = time.perf_counter(), server.processor_time()
    right, wrong = turns(seconds, turn)
    elapsed, busy = time.perf_counter() - start, server.processor_time() - busy
    return Measured((right / elapsed, right / busy), early + wrong)


def turns(seconds: float, turn: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    until = time.monotonic() + seconds
    right = wrong = 0
    while True:
        more = turn()
        right, wrong = right + more[0], wrong + more[1]
        # A server that loses something takes the deadline to be found out each time.
        if more[1] or time.monotonic() >= until:
            return right, wrong
