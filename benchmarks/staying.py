"""What it costs to ask again and again whether 5,000 websockets may stay.

    python -m benchmarks.staying [--sockets 5000] [--interval 60] [--seconds 60] [--rounds 2]

Each measurement starts a Uvicorn of its own, whose security policy asks a database (SQLAlchemy,
SQLite) for the user, opens the websockets, one of each user, and asks for a page 50 times in a
second meanwhile. The variants take turns: ``without``, and with ``revalidate`` at the interval.
Prints what the processor did for the server (Linux), in seconds of a second, and how long pages
took.
"""

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import Allowed, Denied
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

HOST = "127.0.0.1"
VARIANTS = ("without", "revalidate")

# So many handshakes are under way at once, and so many pages are asked for in a second.
AT_ONCE = 40
PAGES = 50

# The server's, and the clients'.
PROCESSORS = sorted(os.sched_getaffinity(0))

HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: {host}\r\nUser: {user}\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    is_banned: Mapped[bool] = mapped_column(default=False)


class Policy:
    """Asks the database for the user whom a header names."""

    def __init__(self, sessions):
        self._sessions = sessions

    def identity(self, request):
        with self._sessions() as session:
            name = request.headers.get("User")
            return session.scalars(sa.select(User).where(User.name == name)).one_or_none()

    def authenticated_userid(self, request):
        user = self.identity(request)
        return None if user is None else user.name

    def permits(self, request, context, permission):
        user = self.identity(request)
        return Allowed("in") if user and not user.is_banned else Denied("out")


def page(request):
    return Response("A page")


async def websocket(websocket):
    await websocket.accept()
    await websocket.wait_closed()


def make_app():
    engine = sa.create_engine(os.environ["DATABASE"])
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(Policy(sessionmaker(engine)))
        config.add_route("page", "/")
        config.add_view(page, route_name="page")
        interval = os.environ["INTERVAL"]
        config.add_websocket(
            "/ws", websocket, permission="view", revalidate=float(interval) if interval else None
        )
        return config.make_asgi_app()


def free_port():
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


async def opened(port, user, gate):
    async with gate:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(HANDSHAKE.format(host=HOST, user=user).encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101"):
            raise SystemExit(answer.decode())
        return reader, writer


async def asked(port, seconds):
    """How long each page took, in milliseconds."""
    reader, writer = await asyncio.open_connection(HOST, port)
    took = []
    begin = time.monotonic()
    for number in range(round(seconds * PAGES)):
        await asyncio.sleep(max(0, begin + number / PAGES - time.monotonic()))
        since = time.perf_counter()
        writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(len("A page"))
        took.append((time.perf_counter() - since) * 1000)
    writer.close()
    return took


async def measured(port, pid, sockets, seconds):
    gate = asyncio.Semaphore(AT_ONCE)
    since = time.monotonic()
    connections = await asyncio.gather(
        *(opened(port, f"user{number}", gate) for number in range(sockets))
    )
    opening = (time.monotonic() - since) / sockets * 1000
    # All of them have had an interval, and none is opened any more.
    before, since = processor_time(pid), time.monotonic()
    took = await asked(port, seconds)
    used = (processor_time(pid) - before) / (time.monotonic() - since)
    closed = sum(reader.at_eof() for reader, _ in connections)
    for _, writer in connections:
        writer.close()
    return opening, used, took, closed


def processor_time(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(variant, options, database):
    port = free_port()
    interval = str(options.interval) if variant == "revalidate" else ""
    command = [sys.executable, "-m", "uvicorn", "--factory", "--log-level", "warning"]
    command += ["--ws", "websockets-sansio", "--host", HOST, "--port", str(port)]
    # Some take the answer of a ping for granted, but these clients give none.
    command += ["--ws-ping-interval", "100000", "benchmarks.staying:make_app"]
    environ = {**os.environ, "DATABASE": database, "INTERVAL": interval}
    server = subprocess.Popen(command, env=environ)
    try:
        os.sched_setaffinity(server.pid, PROCESSORS[:1])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection((HOST, port)).close()
                break
            except OSError:
                time.sleep(0.05)
        return asyncio.run(measured(port, server.pid, options.sockets, options.seconds))
    finally:
        server.kill()
        server.wait()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--interval", type=float, default=60)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    os.sched_setaffinity(0, PROCESSORS[-1:])
    with tempfile.TemporaryDirectory() as directory:
        database = f"sqlite:///{directory}/users.sqlite"
        engine = sa.create_engine(database)
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add_all(User(name=f"user{number}") for number in range(options.sockets))
            session.commit()
        print(f"{'':12}{'handshake':>12}{'processor':>12}{'median':>10}{'p99':>10}{'closed':>8}")
        for turn in range(options.rounds):
            for variant in VARIANTS if turn % 2 == 0 else reversed(VARIANTS):
                opening, used, took, closed = measure(variant, options, database)
                p99 = statistics.quantiles(took, n=100)[98]
                median = statistics.median(took)
                print(
                    f"{variant:12}{opening:9.2f} ms{used:11.1%} {median:7.2f} ms{p99:7.2f} ms"
                    f"{closed:8}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
