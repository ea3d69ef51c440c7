"""Random scopes and messages, clients that leave and servers that cancel at any moment."""

import asyncio
import io
import logging
import os
import re
import threading
from operator import methodcaller

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden
from pyramid.response import FileIter, Response
from pyramid.security import NO_PERMISSION_REQUIRED

KINDS = ("echo", "stream", "file", "crash", "crash-late", "short", "write")


def view(request):
    kind = request.matchdict["kind"]
    # WebOb would copy the body to a temporary file of its own, and leave it to the collector.
    body = request.environ["wsgi.input"]
    if kind == "echo":
        return Response(body.read())
    if kind == "file":
        return Response(app_iter=request.environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 600_000)))
    if kind == "short":
        return Response(app_iter=[b"x"], content_length=7)
    if kind == "write":
        return Response(app_iter=FileIter(io.BytesIO(body.read())))
    assert kind != "crash", "at once"

    def chunks():
        for _ in range(5):
            yield b"x" * 1000
        assert kind != "crash-late", "late"

    return Response(app_iter=chunks())


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def forbidden(scope, receive, send):
    await receive()
    if scope["path_params"]["when"] == "late":
        await send({"type": "websocket.accept"})
    raise HTTPForbidden


async def function(websocket):
    await websocket.accept()
    async for message in websocket:
        await websocket.send(message)


async def http_crash(scope, receive, send):
    if scope["path_params"]["when"] == "late":
        await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("crash")


def make_app():
    with Configurator(settings={"asgi.max_body_size": 1_000_000, "asgi.threads": 4}) as config:
        config.include("pyramid_asgi_consumers")
        config.add_route("view", "/view/{kind}")
        config.add_view(view, route_name="view")
        config.add_asgi_consumer("/ws", "websocket", echo)
        config.add_asgi_consumer("/ws/forbidden/{when}", "websocket", forbidden)
        config.add_asgi_consumer("/http/{when}", "http", http_crash)
        config.add_websocket("/function", function)
        config.add_websocket("/guarded", function, permission=NO_PERMISSION_REQUIRED)
        return config.make_asgi_app()


# The beginnings of what the ASGI specification lets an application send.
ORDER = re.compile(
    r"(http\.response\.start (http\.response\.body )*)?"
    r"|websocket\.accept (websocket\.send )*(websocket\.close )?"
    r"|websocket\.http\.response\.start (websocket\.http\.response\.body )?"
    r"|websocket\.close "
)


class Left(OSError):
    """What ``send`` raises when the client has left."""


# Stands for a body that does not fit into memory; hypothesis would print a real one.
LARGE = "large"


class Client:
    """A client that sends ``messages``, takes ``takes`` messages, and then leaves."""

    def __init__(self, kind, messages, takes):
        self.kind = kind
        self.messages = list(messages)
        self.takes = takes
        self.sent = []

    async def receive(self):
        await asyncio.sleep(0)
        if self.messages:
            message = self.messages.pop(0)
            return dict(message, body=b"x" * 600_000) if message.get("body") is LARGE else message
        return {"type": f"{self.kind}.disconnect"}

    async def send(self, message):
        await asyncio.sleep(0)
        if len(self.sent) == self.takes:
            raise Left
        self.sent.append(message)


PAGES = [f"/view/{kind}" for kind in KINDS] + ["/http/early", "/http/late"]
WEBSOCKETS = ["/ws", "/ws/forbidden/early", "/ws/forbidden/late", "/function", "/guarded"]
paths = st.sampled_from(PAGES + WEBSOCKETS + ["/ws\n"]) | st.text(max_size=8)
headers = st.lists(
    st.tuples(
        st.sampled_from([b"host", b"origin", b"cookie", b"content-length", b"content-type"])
        | st.binary(max_size=5),
        st.binary(max_size=8) | st.sampled_from([b"a.test", b"http://a.test", b"5", b"1000001"]),
    ),
    max_size=4,
)
scopes = st.fixed_dictionaries(
    {
        "path": paths,
        "headers": headers,
        "query_string": st.binary(max_size=5),
        "method": st.sampled_from(["GET", "HEAD", "POST", "OPTIONS"]),
    },
    optional={
        "root_path": st.text(max_size=3) | st.just("/view"),
        "raw_path": st.binary(max_size=5),
        "client": st.none() | st.just(("127.0.0.1", 1)) | st.just(["/socket", None]),
        "extensions": st.none() | st.just({"websocket.http.response": {}}),
    },
)
http_messages = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("http.request")},
        optional={
            "body": st.sampled_from([b"", b"hello", LARGE]),
            "more_body": st.booleans(),
        },
    ),
    max_size=4,
)
websocket_messages = st.lists(
    st.just({"type": "websocket.receive", "text": "hello"}), max_size=3
).map(lambda messages: [{"type": "websocket.connect"}, *messages])
exchanges = st.one_of(
    st.tuples(st.just("http"), http_messages), st.tuples(st.just("websocket"), websocket_messages)
)


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="module")
def app(loop):
    app = make_app()
    yield app
    assert loop.run_until_complete(app.bridge.pool.drain(20))
    assert loop.run_until_complete(app.handshakes.pool.drain(20))


async def serve(app, scope, client, cancel_after):
    task = asyncio.ensure_future(app(scope, client.receive, client.send))
    for _ in range(cancel_after):
        await asyncio.sleep(0)
    if cancel_after < 30:
        task.cancel()
    await asyncio.wait((task,), timeout=20)
    assert task.done()
    # A view goes on when its request is cancelled; what it logs belongs to this request.
    assert await app.bridge.pool.drain(20)
    assert await app.handshakes.pool.drain(20)
    return None if task.cancelled() else task.exception()


@pytest.mark.parametrize("path", PAGES + WEBSOCKETS)
def test_what_is_served_at_random_is_served(app, loop, path):
    kind = "http" if path in PAGES else "websocket"
    messages = [{"type": "http.request", "body": b"hello"}]
    if kind == "websocket":
        messages = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]
    scope = {"type": kind, "path": path, "headers": [], "method": "POST"}
    scope["extensions"] = {"websocket.http.response": {}}
    client = Client(kind, messages, 100)
    loop.run_until_complete(serve(app, scope, client, 40))
    assert client.sent[0].get("status", 0) < 404 or "early" in path or path == "/view/crash"


def warnings(caplog):
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def files():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def nothing_left(app, loop):
    before, opened = set(threading.enumerate()), files()
    yield
    loop.run_until_complete(app.bridge.pool.drain(20))
    loop.run_until_complete(app.handshakes.pool.drain(20))
    loop.run_until_complete(loop.shutdown_default_executor())
    list(map(methodcaller("join", 20), set(threading.enumerate()) - before))
    assert set(threading.enumerate()) <= before
    assert files() == opened


def test_nothing_is_left_running_and_nothing_is_logged_twice(app, loop, caplog, nothing_left):
    caplog.set_level(logging.INFO)

    @settings(deadline=None, max_examples=400)
    @given(
        scope=scopes, exchange=exchanges, takes=st.integers(0, 6), cancel_after=st.integers(1, 40)
    )
    def one(scope, exchange, takes, cancel_after):
        caplog.clear()
        kind, messages = exchange
        client = Client(kind, messages, takes)
        error = loop.run_until_complete(serve(app, {"type": kind, **scope}, client, cancel_after))
        types = [message["type"] for message in client.sent]
        # An exception is only for a server to see that has to break a connection off.
        assert error is None or types[:1] == ["http.response.start"], error
        assert len(warnings(caplog)) <= 1
        assert ORDER.fullmatch("".join(f"{type_} " for type_ in types)), types
        assert len(asyncio.all_tasks(loop)) == 0

    one()
