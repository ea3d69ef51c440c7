"""A project as people have them: transactions, a database, sessions, users and permissions.

Its one table of users has ``ann``, who may speak in every room but ``closed``. Members that log in
post their name to ``/login``.
"""

import asyncio
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie

import zope.sqlalchemy
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.authorization import ACLHelper, Allow, Authenticated, Deny, Everyone
from pyramid.config import Configurator
from pyramid.request import RequestLocalCache
from pyramid.response import Response
from pyramid.security import remember
from pyramid.session import SignedCookieSessionFactory
from sqlalchemy import ForeignKey, QueuePool, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from pyramid_asgi_consumers import run_in_request
from tests.support.asgi import CONNECT, http_scope, run, websocket_scope

SETTINGS = {
    "pyramid.includes": "pyramid_tm",
    "tm.manager_hook": "pyramid_tm.explicit_manager",
}


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    name: Mapped[str] = mapped_column(primary_key=True)


class Message(Base):
    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    author: Mapped[str] = mapped_column(ForeignKey("users.name"))


class Room:
    """The context of a chat room."""

    def __init__(self, request):
        self.name = request.matchdict["room"]

    def __acl__(self):
        closed = [(Deny, Everyone, "speak")] if self.name == "closed" else []
        return [*closed, (Allow, Authenticated, "speak")]


class SecurityPolicy:
    def __init__(self):
        self.session = SessionAuthenticationHelper()
        self.acl = ACLHelper()
        self.users = RequestLocalCache(self.load_user)

    def load_user(self, request):
        name = self.session.authenticated_userid(request)
        return None if name is None else request.dbsession.get(User, name)

    def identity(self, request):
        return self.users.get_or_create(request)

    def authenticated_userid(self, request):
        user = self.identity(request)
        return None if user is None else user.name

    def forget(self, request):
        request.session.invalidate()
        return []

    def permits(self, request, context, permission):
        principals = [Everyone] if self.identity(request) is None else [Everyone, Authenticated]
        return self.acl.permits(context, principals, permission)

    def remember(self, request, userid, **kw):
        return self.session.remember(request, userid, **kw)


def login(request):
    request.session.invalidate()
    return Response("Welcome", headers=remember(request, request.params["name"]))


def forbidden(request):
    request.response.status = 403
    request.response.headers["X-Reason"] = "permission"
    return {"error": "forbidden", "path": request.path}


def home(request):
    return Response(f"Hello {request.authenticated_userid}")


async def chat(scope, receive, send):
    """Stores each message, and says how many there are."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        count = await run_in_request(scope, post, message["text"])
        await send({"type": "websocket.send", "text": f"{scope['pyramid.userid']}: {count}"})


def post(request, text):
    """Store a message; return how many there are."""
    write(request, text, request.authenticated_userid)
    return len(texts(request))


def write(request, text, author="ann"):
    request.dbsession.add(Message(text=text, author=author))


def texts(request):
    return list(request.dbsession.scalars(select(Message.text).order_by(Message.id)))


def make_engine(path):
    """A database with at most three connections."""
    engine = create_engine(
        f"sqlite:///{path}", poolclass=QueuePool, pool_size=3, max_overflow=0, pool_timeout=5
    )

    @event.listens_for(engine, "connect")
    def connect(connection, record):
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = OFF")

    Base.metadata.create_all(engine)
    with sessionmaker(engine).begin() as session:
        session.merge(User(name="ann"))
    return engine


def make_config(engine, session_timeout=1200, **settings):
    """The project's configuration, over ``engine``, without consumers but for ``/rooms/{room}``."""
    config = Configurator(settings={**SETTINGS, **settings})
    config.include("pyramid_asgi_consumers")
    factory = sessionmaker(engine)

    def dbsession(request):
        session = factory()
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    config.add_request_method(dbsession, reify=True)
    config.set_security_policy(SecurityPolicy())
    config.set_session_factory(
        SignedCookieSessionFactory("secret", timeout=session_timeout, reissue_time=0)
    )
    config.add_forbidden_view(forbidden, renderer="json")
    config.add_route("home", "/")
    config.add_view(home, route_name="home")
    config.add_route("login", "/login")
    config.add_view(login, route_name="login", request_method="POST")
    config.add_asgi_consumer(
        "/rooms/{room}", "websocket", chat, name="chat", permission="speak", factory=Room
    )
    return config


async def log_in(app, name="ann"):
    """Log in; return the ``Cookie`` header as scopes have it."""
    sent = await run(app, http_scope("/login", "POST", query_string=f"name={name}".encode()))
    assert sent[0]["status"] == 200
    return (b"cookie", cookies_of(sent[0]))


def cookies_of(message):
    """The ``Cookie`` header that answers the ``Set-Cookie`` headers of ``message``."""
    jar = SimpleCookie()
    for name, value in message["headers"]:
        if name == b"set-cookie":
            jar.load(value.decode())
    return "; ".join(f"{cookie.key}={cookie.value}" for cookie in jar.values()).encode()


@asynccontextmanager
async def opened(app, count, *headers, path="/rooms/blue"):
    """Keep ``count`` websockets open during the block."""
    left = asyncio.Event()
    accepted = [asyncio.Event() for _ in range(count)]

    async def client(event):
        async def receive():
            if not event.is_set():
                return CONNECT
            await left.wait()
            return {"type": "websocket.disconnect", "code": 1000}

        async def send(message):
            if not event.is_set():
                assert message["type"] == "websocket.accept"
                event.set()

        await app(websocket_scope(path, headers), receive, send)

    tasks = [asyncio.create_task(client(event)) for event in accepted]
    try:
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in accepted)), 20)
        yield
    finally:
        left.set()
        await asyncio.gather(*tasks)
