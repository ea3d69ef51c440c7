"""The application that the servers serve in ``test_servers.py``: pages, consumers, third parties.

Environment variables: ``DOWNLOAD`` is the file that ``/download/file`` sends, ``AROUND`` what
stands between the server and the application.
"""

import asyncio
import json
import logging
import os
import threading
from collections import Counter
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from django.conf import settings as django_settings
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden
from pyramid.response import FileResponse, Response
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

from pyramid_asgi_consumers.websocket import watcher
from tests.support.around import AROUND
from tests.support.leaving import look_often
from tests.support.logs import log_to_stderr
from tests.support.sent import FILLER, FLOOD, blocks

django_settings.configure()
# Own lines are told from the server's by the logger's name in brackets.
log_to_stderr()
look_often()
log = logging.getLogger("serverapp")

#: What has happened so far, shown by the page ``/state``.
happened: Counter = Counter()


# Pages.


def home(request):
    return Response("A Pyramid page")


def state(request):
    return Response(json_body=happened)


def write_log(request):
    log.info(request.params["line"])
    return Response("logged")


def number(request):
    return Response(request.params["n"])


def environ(request):
    names = ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REMOTE_PORT", "SERVER_PORT")
    values = {name: request.environ[name] for name in names}
    return Response(json_body=dict(values, url=request.route_url("environ")))


def upload(request):
    happened[request.GET["name"]] += 1
    return Response(
        json_body={
            "read": [len(block) for block in iter(lambda: request.body_file.read(65536), b"")],
            "length": request.environ.get("CONTENT_LENGTH"),
            "coding": request.environ.get("HTTP_TRANSFER_ENCODING"),
        }
    )


def download_generator(request):
    return Response(app_iter=blocks(), content_type="application/octet-stream")


def download_file(request):
    return FileResponse(os.environ["DOWNLOAD"], content_type="application/octet-stream")


class Ticking:
    """A body without an end, which notes when it is closed."""

    def __init__(self, name):
        self.name = name
        self.pace = threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        # Daphne takes all it is given: without a pace it would fill the memory.
        self.pace.wait(0.02)
        return b"tick\n"

    def close(self):
        happened[f"closed {self.name}"] += 1


def stream(request):
    return Response(app_iter=Ticking(request.params["name"]), content_type="text/plain")


released = threading.Event()


def late(request):
    """Answers when ``/release`` is asked for."""
    released.wait(20)
    return stream(request)


def release(request):
    released.set()
    return Response("released")


def flood(request):
    """48 MiB, counted as they are made."""

    def body():
        for block in blocks(FLOOD):
            happened["flood"] += 1
            yield block

    return Response(app_iter=body(), content_type="application/octet-stream")


all_here = asyncio.Event()


async def together(request):
    """Answer when 30 requests are here; all of them wait on the server's event loop."""
    happened["guests"] += 1
    if happened["guests"] == 30:
        all_here.set()
    await all_here.wait()
    return Response(str(threading.get_ident()))


async def wait(request):
    happened["waits"] += 1
    try:
        await asyncio.Event().wait()
    finally:
        happened["waits no longer"] += 1


def crash(request):
    raise RuntimeError(request.params["message"])


def crash_late(request):
    def body():
        yield FILLER
        raise RuntimeError(request.params["message"])

    response = Response(app_iter=body(), content_type="text/plain")
    if "length" in request.params:
        response.content_length = int(request.params["length"])
    return response


def not_found(request):
    return Response("Pyramid has no such page", status=404)


# Consumers.


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await send({"type": "websocket.send", "text": message["text"]})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})
    happened["echo left"] += 1


async def accept_headers(scope, receive, send):
    await receive()
    subprotocol = scope["subprotocols"][-1]
    headers = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-kind", b"test")]
    await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})
    await send({"type": "websocket.close", "code": 1013, "reason": "enough"})


async def where(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    answer = {
        "path_params": scope["path_params"],
        "answer": scope["state"]["answer"],
        "registry": type(scope["pyramid.registry"]).__name__,
    }
    await send({"type": "websocket.send", "text": json.dumps(answer)})
    await receive()


async def crash_early(scope, receive, send):
    raise RuntimeError(scope["query_string"].decode())


async def crash_accepted(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    raise RuntimeError(scope["query_string"].decode())


async def denied(scope, receive, send):
    refusal = HTTPForbidden("You may not")
    refusal.status = f"{scope['path_params']['status']} So be it"
    refusal.headers["X-Kind"] = "test"
    refusal.headers.add("Set-Cookie", "a=1")
    refusal.headers.add("Set-Cookie", "b=2")
    raise refusal


async def forbidden_later(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    raise HTTPForbidden("No longer")


async def http_consumer(scope, receive, send):
    start = {"type": "http.response.start", "status": 200, "headers": []}
    await send(dict(start, headers=[(b"content-type", b"text/plain")]))
    await send({"type": "http.response.body", "body": scope["path_params"]["name"].encode()})


async def http_flood(scope, receive, send):
    """As the page :func:`flood`."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for block in blocks(FLOOD):
        happened["consumer flood"] += 1
        await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def http_crash(scope, receive, send):
    raise RuntimeError(scope["query_string"].decode())


async def http_crash_late(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": FILLER, "more_body": True})
    raise RuntimeError(scope["query_string"].decode())


# Functions of a WebSocket.


async def function_echo(websocket):
    await websocket.accept()
    async for message in websocket:
        await websocket.send(message)
    happened["function left"] += 1


async def function_busy(websocket):
    await websocket.accept()
    await websocket.send("busy")
    try:
        await asyncio.Event().wait()
    finally:
        happened[websocket.path_params["name"]] += 1


async def function_late(websocket):
    await websocket.accept()
    await asyncio.sleep(2 * watcher.INTERVAL)
    async for message in websocket:
        await websocket.send(message)


async def function_json(websocket):
    await websocket.accept()
    await websocket.send_json({"got": await websocket.receive_json()})
    await websocket.receive_bytes()


async def function_sender(websocket):
    await websocket.accept()
    try:
        while True:
            await websocket.send("x" * 1000)
            # Servers notice that a client has left when they read.
            await asyncio.sleep(0)
    finally:
        # Some servers' send raises, others drop what is sent: there it is the watcher.
        happened["sender left"] += 1


async def function_close(websocket):
    await websocket.accept()
    await websocket.close(4321, "enough")


async def function_returns(websocket):
    return None


# Third parties.


class StarletteEcho(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, websocket, data):
        await websocket.send_text(f"{websocket.path_params['room']}: {data}")


class ChannelsEcho(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content, **kwargs):
        room = self.scope["url_route"]["kwargs"]["room"]
        await self.send_json({"room": room, "content": content})


class ASGI2Echo:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await echo(self.scope, receive, send)


@asynccontextmanager
async def starlette_lifespan(app):
    happened["starlette entered"] += 1
    yield {"greeting": "Hello"}
    log.info("Starlette's lifespan is left")


async def starlette_page(request):
    path = str(request.url_for("page", name="x").path)
    return JSONResponse({"greeting": request.state.greeting, "url": path, **request.path_params})


async def starlette_websocket(websocket):
    await websocket.accept()
    await websocket.send_json({"greeting": websocket.state.greeting, **websocket.path_params})
    await websocket.close()


starlette_app = Starlette(
    routes=[
        Route("/page/{name}", starlette_page, name="page"),
        WebSocketRoute("/ws/{name}", starlette_websocket),
    ],
    lifespan=starlette_lifespan,
)


# The whole.


def lifespan(name):
    @asynccontextmanager
    async def context(registry):
        happened[f"{name} entered"] += 1
        yield {"answer": name}
        log.info("The %s context is left", name)

    return context


def make_app():
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        pages = {
            "/": home,
            "/state": state,
            "/log": write_log,
            "/number": number,
            "/environ": environ,
            "/upload": upload,
            "/download/generator": download_generator,
            "/download/file": download_file,
            "/stream": stream,
            "/late": late,
            "/release": release,
            "/flood": flood,
            "/together": together,
            "/wait": wait,
            "/crash": crash,
            "/crash-late": crash_late,
        }
        for path, view in pages.items():
            config.add_route(view.__name__, path)
            config.add_view(view, route_name=view.__name__)
        config.add_notfound_view(not_found)

        config.add_asgi_consumer("/", "websocket", echo)
        config.add_asgi_consumer("/ws", "websocket", echo)
        config.add_asgi_consumer("/ws/headers", "websocket", accept_headers)
        config.add_asgi_consumer("/ws/where/{room}", "websocket", where)
        config.add_asgi_consumer("/ws/crash-early", "websocket", crash_early)
        config.add_asgi_consumer("/ws/crash-accepted", "websocket", crash_accepted)
        config.add_asgi_consumer("/ws/denied/{status}", "websocket", denied)
        config.add_asgi_consumer("/ws/forbidden-later", "websocket", forbidden_later)
        config.add_asgi_consumer("/ws/limited", "websocket", echo, max_connections=1)
        config.add_asgi_consumer(
            "/ws/friends", "websocket", echo, origins=["https://friend.example"]
        )
        config.add_websocket("/function/echo", function_echo)
        config.add_websocket("/function/busy/{name}", function_busy)
        config.add_websocket("/function/late", function_late)
        config.add_websocket("/function/json", function_json)
        config.add_websocket("/function/sender", function_sender)
        config.add_websocket("/function/close", function_close)
        config.add_websocket("/function/returns", function_returns)
        config.add_asgi_consumer("/consumer/flood", "http", http_flood)
        config.add_asgi_consumer("/consumer/crash", "http", http_crash)
        config.add_asgi_consumer("/consumer/crash-late", "http", http_crash_late)
        config.add_asgi_consumer("/consumer/{name}", "http", http_consumer)

        config.add_asgi_app("/starlette", starlette_app)
        config.add_asgi_consumer("/ws/starlette/{room}", "websocket", StarletteEcho)
        config.add_asgi_consumer("/ws/channels/{room}", "websocket", ChannelsEcho.as_asgi())
        config.add_asgi_consumer("/ws/asgi2", "websocket", ASGI2Echo)

        config.add_asgi_lifespan(lifespan("first"))
        config.add_asgi_lifespan(lifespan("second"))
        return config.make_asgi_app()


pyramid_app = AROUND[os.environ.get("AROUND", "nothing")](make_app())


async def bare(scope, receive, send):
    """What the servers do by themselves, without this package in the way."""
    name = scope["path"].rpartition("/")[2]
    query = scope["query_string"].decode()
    if scope["type"] == "websocket":
        await receive()
        headers = [(key.encode(), value.encode()) for key, value in parse_qsl(query)]
        if name.isdigit():
            start = {"type": "websocket.http.response.start", "status": int(name)}
            await send({**start, "headers": [*headers, (b"content-length", b"4")]})
            await send({"type": "websocket.http.response.body", "body": b"bare"})
        else:
            await send({"type": "websocket.accept", "headers": headers})
            await send({"type": "websocket.close", "code": 4321, "reason": "enough"})
        return
    if name == "crash":
        raise RuntimeError("to the server")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if name == "crash-late":
        await send({"type": "http.response.body", "body": FILLER, "more_body": True})
        raise RuntimeError("late, to the server")
    if name == "root-path":
        await send({"type": "http.response.body", "body": scope["root_path"].encode()})
    if name == "ports":
        kinds = [type(scope[key][1]).__name__ for key in ("client", "server")]
        await send({"type": "http.response.body", "body": " ".join(kinds).encode()})


async def app(scope, receive, send):
    """The application, and beside it what goes straight to the server."""
    if scope["type"] != "lifespan" and scope["path"].startswith("/bare/"):
        await bare(scope, receive, send)
    elif scope["type"] == "http":
        request = f"{scope['path']}?{scope['query_string'].decode()}"
        happened[f"began {request}"] += 1
        try:
            await pyramid_app(scope, receive, send)
        finally:
            happened[f"ended {request}"] += 1
    else:
        await pyramid_app(scope, receive, send)
