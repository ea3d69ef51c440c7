"""The application that ``test_deployment.py`` deploys: what a project would have.

Environment variables: ``ROOT_PATH`` is the setting ``asgi.root_path``, ``CHANNELS`` is
``asgi.channels``. Its start takes ``START_SECONDS`` longer than it would.
"""

import hashlib
import json
import logging
import os
import time
from pathlib import Path

from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import remember
from pyramid.session import SignedCookieSessionFactory

time.sleep(float(os.environ.get("START_SECONDS", "0")))
logging.basicConfig(level=logging.INFO, format="%(levelname)s [%(name)s] %(message)s")


class SecurityPolicy:
    """Whoever has logged in may do everything."""

    def __init__(self):
        self._helper = SessionAuthenticationHelper()

    def identity(self, request):
        return self._helper.authenticated_userid(request)

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return self.identity(request) is not None

    def remember(self, request, userid, **kw):
        return self._helper.remember(request, userid, **kw)


def home(request):
    return Response("A Pyramid page")


def process(request):
    return Response(json_body=os.getpid())


def login(request):
    request.response.headers.update(remember(request, request.params["user"]))
    return request.response


def environ(request):
    """What the server was told, and what Pyramid makes of it."""
    names = ("SCRIPT_NAME", "PATH_INFO", "REMOTE_ADDR", "HTTP_CONNECTION", "HTTP_UPGRADE")
    values = {name: request.environ.get(name) for name in names}
    url = request.route_url("environ")
    return Response(json_body=dict(values, scheme=request.scheme, url=url))


def upload(request):
    digest = hashlib.sha256()
    for block in iter(lambda: request.body_file.read(65536), b""):
        digest.update(block)
    return Response(digest.hexdigest())


def add(request):
    """Append the line ``n`` to the file ``to``, and answer with it."""
    line = request.params["n"]
    with open(request.params["to"], "a") as file:
        file.write(f"{line}\n")
    return Response(line)


def stream(request):
    """One line at once, and another when the file ``until`` is there."""

    def body():
        yield b"first\n"
        while not os.path.exists(request.params["until"]):
            time.sleep(0.02)
        yield b"second\n"

    response = Response(app_iter=body(), content_type="text/plain")
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["X-Process"] = str(os.getpid())
    return response


def publish(request):
    """Tell all in the room which process this is."""
    request.channels.publish("room", os.getpid())
    return process(request)


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def who(scope, receive, send):
    """Tells who is connected to which process, and waits for the end."""
    await receive()
    await send({"type": "websocket.accept"})
    answer = {
        "userid": scope["pyramid.userid"],
        "scheme": scope["pyramid.request"].scheme,
        "process": os.getpid(),
    }
    await send({"type": "websocket.send", "text": json.dumps(answer)})
    await receive()


async def room(websocket):
    """Tells which process this is, and what is published in the room."""
    await websocket.accept()
    async with websocket.channels.subscribe("room") as events:
        await websocket.send(str(os.getpid()))
        async for event in events:
            await websocket.send(event.json)


async def news(stream):
    """Relays what is published in the room; who leaves is named in its file."""
    try:
        async with stream.relay("room"):
            await stream.wait_closed()
    finally:
        Path(stream.headers["X-Left"]).touch()


def main():
    settings = {
        "asgi.root_path": os.environ.get("ROOT_PATH", ""),
        "asgi.channels": os.environ.get("CHANNELS", "memory://"),
    }
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(SecurityPolicy())
        config.set_session_factory(SignedCookieSessionFactory("secret", secure=True))
        for view in (home, process, login, environ, upload, add, stream, publish):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        config.add_asgi_consumer("/ws", "websocket", echo)
        config.add_websocket("/ws/room", room)
        config.add_event_stream("/news", news)
        config.add_asgi_consumer("/ws/who", "websocket", who, permission="chat")
        return config.make_asgi_app()


app = main()
