"""Responses without an end, that end when the server stops."""

import asyncio
import logging
import os

from pyramid.config import Configurator
from pyramid.response import Response
from starlette.applications import Starlette
from starlette.routing import Mount

from pyramid_asgi_consumers.interfaces import IStopping
from tests.support.around import wrapped
from tests.support.logs import log_to_stderr

log_to_stderr()
log = logging.getLogger("endlessapp")


def home(request):
    """Tells which process answers."""
    return Response(str(os.getpid()))


async def silent(scope, receive, send):
    """Sends nothing more after its process, until it is to end."""
    await _serve(scope, send, None)


async def ticking(scope, receive, send):
    """Sends all the time."""
    await _serve(scope, send, 0.01)


async def _serve(scope, send, pause):
    async def send_body(body, more_body=True):
        await send({"type": "http.response.body", "body": body, "more_body": more_body})

    ended = asyncio.Event()
    ends = scope["pyramid.registry"].getUtility(IStopping).of(asyncio.get_running_loop())
    ends.add(ended.set)
    try:
        headers = [(b"Content-Type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send_body(f"{os.getpid()}\n".encode())
        while not ended.is_set():
            waiting = asyncio.ensure_future(ended.wait())
            await asyncio.wait([waiting], timeout=pause)
            await send_body(b"tick\n")
        await send_body(b"the end", more_body=False)
    finally:
        ends.discard(ended.set)
        log.info("%s is left", scope["path"])


async def events(stream):
    """Sends events all the time."""
    try:
        await stream.send(os.getpid())
        while True:
            await stream.send("tick")
            await asyncio.sleep(0.01)
    finally:
        log.info("/events is left")


async def flooding(stream):
    """Sends until its client takes no more, and says so."""
    taken = {None}
    while taken:
        sending = asyncio.ensure_future(stream.send("tick" * 16 * 1024))
        taken, _ = await asyncio.wait({sending}, timeout=0.3)
    log.info("/flooding waits")
    await sending


async def relayed(stream):
    """Waits for events that do not come."""
    await stream.send(os.getpid())
    try:
        async with stream.relay("news", "others"):
            await stream.wait_closed()
    except asyncio.CancelledError:
        # What is to be tidied up may take a moment.
        await asyncio.sleep(0.05)
        log.info("/relayed is left")
        raise


async def generated(request):
    """A view whose body has no end."""
    yield f"{os.getpid()}\n"
    try:
        while True:
            yield "tick\n"
            await asyncio.sleep(0.01)
    finally:
        log.info("/generated is left")


async def flood(request):
    """A view whose body is more than its client takes; the last chunk says so."""
    while True:
        waits = asyncio.get_running_loop().call_later(0.3, log.info, "/flood waits")
        yield "tick" * 16 * 1024
        waits.cancel()


def body(request):
    """A view whose response has a body that waits without an end."""
    return Response(app_iter=_waiting())


async def _waiting():
    yield f"{os.getpid()}\n".encode()
    try:
        await asyncio.Event().wait()
    finally:
        log.info("/body is left")


def main(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.add_route("home", "/")
        config.add_view(home, route_name="home")
        for view in (generated, body, flood):
            config.add_route(view.__name__, f"/{view.__name__}")
            config.add_view(view, route_name=view.__name__)
        for consumer in (silent, ticking):
            config.add_asgi_consumer(f"/{consumer.__name__}", "http", consumer)
        for func in (events, relayed, flooding):
            config.add_event_stream(f"/{func.__name__}", func)
        return config.make_asgi_app()


app = main({})

#: The same within others' middleware and another application, which gives it no lifespan.
mounted = wrapped(Starlette(routes=[Mount("/", app=app)]))
