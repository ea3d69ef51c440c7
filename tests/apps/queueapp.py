"""The application of ``test_queue_servers.py``: handshakes and calls that wait until let go.

There are two handshake threads: one for handshakes, one for ``run_in_request`` calls.
"""

import hashlib
import logging
import sys
import threading
from collections import Counter

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import run_in_request

begun = Counter()
go_on = threading.Event()


def count(request):
    begun[request.matched_route.name] += 1
    return {}


def block(request):
    count(request)
    go_on.wait(20)
    return {}


def state(request):
    """What has begun, and how many handshakes wait for a thread."""
    queue = pyramid_app.handshakes.handshakes._queue
    return {**begun, "waiting": len(getattr(queue, "jobs", ()))}


def hold(request):
    begun.clear()
    go_on.clear()
    return Response("held")


def release(request):
    go_on.set()
    return Response("released")


def log(request):
    logging.getLogger("tests").warning(request.params["line"])
    return Response("logged")


async def echo(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def digest(scope, receive, send):
    """Answers with the SHA-256 of the body."""
    body, more = hashlib.sha256(), True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body.update(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body.hexdigest().encode()})


def call(request):
    begun["call"] += 1
    go_on.wait(20)


async def calling(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await run_in_request(scope, call)


def main():
    config = Configurator(settings={"asgi.handshake_threads": 2})
    config.include("pyramid_asgi_consumers")
    for name, view in [("state", state), ("hold", hold), ("release", release), ("log", log)]:
        config.add_route(name, f"/{name}")
        renderer = "json" if view is state else None
        config.add_view(view, route_name=name, renderer=renderer)
    config.add_route("home", "/")
    config.add_view(lambda request: Response("home"), route_name="home")
    for path, protocol, consumer, factory in [
        ("blocked", "websocket", echo, block),
        ("echo", "websocket", echo, count),
        ("calling", "websocket", calling, count),
        ("digest", "http", digest, count),
    ]:
        config.add_asgi_consumer(
            f"/{path}",
            protocol,
            consumer,
            name=path,
            factory=factory,
            permission=NO_PERMISSION_REQUIRED,
        )
    return config.make_asgi_app()


logging.basicConfig(stream=sys.stdout, format="%(levelname)s [%(name)s] %(message)s")
# Daphne's command line does, too.
for handler in logging.getLogger().handlers:
    handler.setFormatter(logging.Formatter("%(levelname)s [%(name)s] %(message)s"))
pyramid_app = main()


async def app(scope, receive, send):
    """The application, and beside it what goes straight to the server."""
    if scope.get("path") == "/bare/crash":
        raise RuntimeError("to the server")
    if scope.get("query_string"):
        begun["?" + scope["query_string"].decode()] += 1
    await pyramid_app(scope, receive, send)
