"""The application of ``test_soak.py``, which tells what its process holds."""

import asyncio
import gc
import json
import os
import sys
import threading

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from tests.support.sent import FILLER

#: Of the pools.
THREADS, HANDSHAKE_THREADS = 4, 2


def page(request):
    return Response(b"A Pyramid page")


def upload(request):
    return Response(request.body)


def download(request):
    """256 KiB in 64 chunks."""
    return Response(app_iter=(FILLER[:4096] for _ in range(64)), content_length=64 * 4096)


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


# What sends and does not receive.

PAUSE = 0.01


async def sender(websocket):
    await websocket.accept()
    while True:
        await websocket.send("tick")
        await asyncio.sleep(PAUSE)


async def waits(websocket):
    await websocket.accept()
    await websocket.send("tick")
    await asyncio.Event().wait()


async def plain_sender(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "text": "tick"})
        await asyncio.sleep(PAUSE)


async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    pause = PAUSE if scope["path_params"]["pace"] == "paced" else 0
    while True:
        await send({"type": "http.response.body", "body": b"tick", "more_body": True})
        if pause:
            await asyncio.sleep(pause)


async def held(scope, receive, send):
    """How many tasks, threads, open files, allocated blocks and resident bytes this process has."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    answer = {
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "blocks": sys.getallocatedblocks(),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def main():
    settings = {"asgi.threads": THREADS, "asgi.handshake_threads": HANDSHAKE_THREADS}
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        for view in (page, upload, download):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        config.add_asgi_consumer("/ws/plain", "websocket", echo)
        config.add_asgi_consumer(
            "/ws/guarded", "websocket", echo, permission=NO_PERMISSION_REQUIRED
        )
        config.add_websocket("/sender", sender)
        config.add_websocket("/waits", waits)
        config.add_asgi_consumer("/sender/plain", "websocket", plain_sender)
        config.add_asgi_consumer("/stream/{pace}", "http", stream)
        config.add_asgi_consumer("/held", "http", held)
        return config.make_asgi_app()


app = main()


# The same, mounted in another application and within middleware.


async def dispatch(request, call_next):
    return await call_next(request)


inside = Starlette(routes=[Mount("/in", app=BaseHTTPMiddleware(app, dispatch=dispatch))])


async def around(scope, receive, send):
    async def wrapped_receive():
        return await receive()

    async def wrapped_send(message):
        await send(message)

    if "path" in scope:
        scope = {**scope, "path": "/in" + scope["path"], "raw_path": b"/in" + scope["raw_path"]}
    await inside(scope, wrapped_receive, wrapped_send)
