"""What it costs to ask again and again whether websockets may stay.

Each measurement starts a Uvicorn of its own, whose security policy asks a database (SQLAlchemy,
SQLite) for the user, opens the websockets, one of each user, and asks for a page 50 times in a
second meanwhile: ``without``, with ``revalidate`` at the interval, in seconds, and with as many
``requests`` of another client for a page that asks the same policy, in place of the handshakes.
"""

import asyncio
import contextlib
import os
import select
import statistics
import tempfile
import time

import sqlalchemy as sa
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import Allowed, Denied
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from benchmarks.command import main
from benchmarks.support import Measured, Table, Variant, asked, handshake, serving, websockets

BODY = b"A page"
#: So many pages are asked for in a second.
PAGES = 50


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
    return Response(BODY)


def users_page(request):
    # A handshake asks the policy for the user, too.
    return Response(BODY if request.authenticated_userid else b"")


async def measured(port, seconds, size, is_beside):
    """The page; ``is_beside`` says whether users ask as often as handshakes are repeated."""
    pages = [asked(port, "/", BODY, seconds, PAGES)]
    if is_beside:
        per_second = size["sockets"] / size["interval"]
        pages.append(asked(port, "/guarded", BODY, seconds, per_second, "User: user0"))
    results = await asyncio.gather(*pages)
    return results[0][0], sum(wrong for _, wrong in results)


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
        config.add_route("guarded", "/guarded")
        config.add_view(users_page, route_name="guarded", permission="view")
        interval = os.environ["INTERVAL"]
        config.add_websocket(
            "/ws", websocket, permission="view", revalidate=float(interval) if interval else None
        )
        return config.make_asgi_app()


class Staying(Table):
    name = "staying"
    title = "Websockets that are asked whether they may stay"
    units = (
        "% of a processor",
        "ms of a handshake",
        "ms of a page at the median",
        "ms at the 99th percentile",
    )
    less_is_better = True
    reference = "without"
    rounds = 2
    seconds = 60
    quick_seconds = 2
    sizes = {"sockets": 5000, "interval": 60}
    quick_sizes = {"sockets": 500, "interval": 2}
    variants = dict.fromkeys(
        ("without", "revalidate", "requests"), Variant("benchmarks.staying:make_app")
    )

    @contextlib.contextmanager
    def prepared(self, variants, size):
        with tempfile.TemporaryDirectory() as directory:
            database = f"sqlite:///{directory}/users.sqlite"
            engine = sa.create_engine(database)
            Base.metadata.create_all(engine)
            with Session(engine) as session:
                session.add_all(User(name=f"user{number}") for number in range(size["sockets"]))
                session.commit()
            engine.dispose()
            yield database

    def measure(self, variant, ground, size, seconds):
        interval = str(size["interval"]) if variant == "revalidate" else ""
        environ = {"DATABASE": ground, "INTERVAL": interval}
        requests = [handshake("/ws", f"User: user{each}") for each in range(size["sockets"])]
        with serving(self.variants[variant].app, environ=environ) as server:
            since = time.perf_counter()
            connections = [connection for connection, _ in websockets(server.port, requests)]
            opening = (time.perf_counter() - since) / len(requests) * 1000
            # All of them have had an interval, and none is opened any more.
            before, since = server.processor_time(), time.perf_counter()
            took, wrong = asyncio.run(measured(server.port, seconds, size, variant == "requests"))
            used = (server.processor_time() - before) / (time.perf_counter() - since)
            wrong += closed(connections)
            for connection in connections:
                connection.close()
        p99 = statistics.quantiles(took, n=100, method="inclusive")[98]
        return Measured((used * 100, opening, statistics.median(took), p99), wrong)


def closed(connections):
    """How many have got anything: the end."""
    poll = select.epoll()
    with contextlib.closing(poll):
        for connection in connections:
            poll.register(connection, select.EPOLLIN)
        return len(poll.poll(0))


TABLES = [Staying()]

if __name__ == "__main__":
    main(__doc__, TABLES)
