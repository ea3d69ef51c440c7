"""What raises what it should not, and what goes on when it is cancelled.

The application of ``test_errors_servers.py`` and ``test_stopping_servers.py``.
"""

import asyncio
import logging
import threading
from contextlib import asynccontextmanager

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPForbidden
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import run_in_request
from tests.support.logs import log_to_stderr

log_to_stderr()
log = logging.getLogger("errorsapp")


async def cancelled():
    """Await a task that somebody else cancels."""
    task = asyncio.ensure_future(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


async def fail(kind):
    """Raise what an event loop would take for its own."""
    await asyncio.sleep(0)
    if kind == "cancel":
        await cancelled()
    if kind == "kick":
        # As who keeps the tasks of connections, to end some of them.
        asyncio.current_task().cancel()
        await asyncio.sleep(0)
    raise {"exit": SystemExit(3), "interrupt": KeyboardInterrupt(), "close": GeneratorExit()}[kind]


# Pages.


def home(request):
    return Response("A page")


async def view(request):
    await fail(request.matchdict["kind"])


async def stubborn_view(request):
    log.info("The view began")
    await swallow()


# Consumers. A consumer's ``when`` is before or after its answer began.


async def websocket_function(websocket):
    if websocket.path_params["when"] == "late":
        await websocket.accept()
    await fail(websocket.path_params["kind"])


async def websocket_consumer(scope, receive, send):
    await receive()
    if scope["path_params"]["when"] == "late":
        await send({"type": "websocket.accept"})
    await fail(scope["path_params"]["kind"])


async def http_consumer(scope, receive, send):
    if scope["path_params"]["when"] == "late":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
    await fail(scope["path_params"]["kind"])


def work(request, kind):
    raise {
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "close": GeneratorExit(),
        "cancel": asyncio.CancelledError(),
    }[kind]


async def in_request(websocket):
    await websocket.accept()
    await run_in_request(websocket.scope, work, websocket.path_params["kind"])


class Guard:
    """Refuses a handshake by raising what is no ``Exception``."""

    def __init__(self, request):
        work(request, request.matchdict["kind"])


async def relaying(websocket):
    await websocket.accept()
    async with websocket.relay("news"):
        await fail(websocket.path_params["kind"])


#: What a server does not know, or refuses, before a websocket is open.
REFUSED = {
    "type": {"type": "websocket.acept"},
    "subprotocol": {"type": "websocket.accept", "subprotocol": "not offered"},
    "header": {"type": "websocket.accept", "headers": [("text", "text")]},
    "body": {"type": "websocket.http.response.body", "body": b"without a start"},
    "status": {"type": "websocket.http.response.start", "status": "text", "headers": []},
    "start": {"type": "websocket.http.response.start", "status": 403, "headers": []},
}


async def refused(scope, receive, send):
    await receive()
    await send(REFUSED[scope["path_params"]["what"]])


async def unknown(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.snd", "text": "hello"})


async def body_first(scope, receive, send):
    await send({"type": "http.response.body", "body": b"some"})


async def no_status(scope, receive, send):
    start = {"type": "http.response.start", "headers": []}
    for message in (start, {"type": "http.response.body", "body": b"some"}):
        await send(message)


#: What lets a slow handshake go on, by its kind.
gates = {}


def gate(kind):
    return gates.setdefault(kind, threading.Event())


def go(request):
    gate(request.matchdict["how"]).set()
    return Response("gone on")


async def slow_handshake(websocket):
    how = websocket.path_params["how"]
    log.info("%s has begun", how)
    try:
        while not gate(how).is_set():
            await asyncio.sleep(0.01)
        if how == "deny":
            await websocket.deny(Response("Denied", status=403))
        elif how == "close":
            await websocket.close()
        elif how == "raise":
            raise HTTPForbidden
        elif how == "accept":
            await websocket.accept()
            await websocket.wait_closed()
    finally:
        gate(how).clear()
        log.info("%s has ended", how)


class SlowGuard:
    """Refuses a handshake, after a while."""

    def __init__(self, request):
        log.info("guarded has begun")
        gate("guarded").wait()
        gate("guarded").clear()
        log.info("guarded has ended")
        raise HTTPForbidden


async def hasty(websocket):
    await websocket.accept()
    await websocket.wait_closed()


async def silent(scope, receive, send):
    """Returns without a response."""


async def unended(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"some", "more_body": True})


async def text(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": "text"})


async def leaving(scope, receive, send):
    """Returns without a response when its client has left."""
    log.info("leaving waits")
    while (await receive())["type"] != "http.disconnect":
        pass
    log.info("leaving has left")


async def head(scope, receive, send):
    headers = [(b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send(
        {"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else b"four"}
    )


async def path_send(scope, receive, send):
    """Sends this file by its path, where the server can."""
    if "http.response.pathsend" not in scope.get("extensions", ()):
        return await head(scope, receive, send)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.pathsend", "path": __file__})


# What does not end.


async def swallow():
    """Go on whenever it is cancelled."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.info("A cancellation is swallowed")


async def stubborn_function(websocket):
    await websocket.accept()
    await swallow()


async def stubborn_consumer(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await swallow()


async def stubborn_stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"some", "more_body": True})
    await swallow()


async def stubborn_parent(websocket):
    """Leaves a task of its own behind."""
    await websocket.accept()
    websocket.task = asyncio.create_task(swallow())
    await asyncio.shield(websocket.task)


async def waiting(websocket):
    await websocket.accept()
    await websocket.wait_closed()


@asynccontextmanager
async def context(registry):
    yield
    log.info("The context is left")


def main(global_config=None, **settings):
    with Configurator(settings={"asgi.shutdown_timeout": "1", **settings}) as config:
        config.include("pyramid_asgi_consumers")
        config.add_route("home", "/")
        config.add_view(home, route_name="home")
        config.add_route("view", "/view/{kind}")
        config.add_view(view, route_name="view")
        config.add_route("stubborn", "/stubborn/view")
        config.add_view(stubborn_view, route_name="stubborn")
        config.add_websocket("/function/{when}/{kind}", websocket_function)
        config.add_asgi_consumer("/consumer/{when}/{kind}", "websocket", websocket_consumer)
        config.add_asgi_consumer("/http/{when}/{kind}", "http", http_consumer)
        config.add_websocket("/request/{kind}", in_request, permission=NO_PERMISSION_REQUIRED)
        config.add_websocket("/guarded/{kind}", waiting, factory=Guard)
        config.add_websocket("/relay/{kind}", relaying)
        config.add_route("go", "/go/{how}")
        config.add_view(go, route_name="go")
        config.add_websocket("/slow/guarded", waiting, factory=SlowGuard)
        config.add_websocket("/slow/{how}", slow_handshake)
        config.add_websocket("/hasty", hasty, max_connections=1)
        config.add_asgi_consumer("/refused/{what}", "websocket", refused)
        config.add_asgi_consumer("/unknown", "websocket", unknown)
        for consumer in (body_first, no_status):
            config.add_asgi_consumer(f"/{consumer.__name__}", "http", consumer)
        for consumer in (silent, unended, text, leaving, head, path_send):
            config.add_asgi_consumer(f"/{consumer.__name__}", "http", consumer)
        config.add_websocket("/stubborn/function", stubborn_function)
        config.add_websocket("/stubborn/parent", stubborn_parent)
        config.add_asgi_consumer("/stubborn/consumer", "websocket", stubborn_consumer)
        config.add_asgi_consumer("/stubborn/stream", "http", stubborn_stream)
        config.add_websocket("/waiting", waiting)
        config.add_asgi_lifespan(context)
        return config.make_asgi_app()


app = main()
