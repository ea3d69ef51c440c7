"""The application of ``test_users_servers.py`` and ``test_users_redis.py``: who may stay.

Environment variables: ``CHANNELS`` is ``asgi.channels``, ``CHANNELS_TIMEOUT`` its ``timeout``, and
``AROUND`` what the application is inside of.
"""

import asyncio
import contextlib
import functools
import os
from collections import Counter

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPBadRequest
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED, forget

from tests.support.around import AROUND
from tests.support.leaving import look_often
from tests.support.logs import log_to_stderr
from tests.support.members import Person, has_members, userid_of

log_to_stderr()
look_often()

#: What has happened so far, shown by the page ``/state``.
happened: Counter = Counter()


# Pages.


def home(request):
    return Response("A Pyramid page")


def state(request):
    return Response(json_body=happened)


async def async_logout(request):
    await request.channels.adisconnect(reason="logged out")
    return Response("Bye", headers=forget(request))


def banned(request):
    request.channels.disconnect(userid_of(request.params["user"]), "banned")
    return Response("Banned")


def aborted(request):
    """Takes back that the user is put out, in one way or the other."""
    request.channels.disconnect(reason="never")
    how = request.params["how"]
    if how == "raises":
        raise HTTPBadRequest()
    if how == "dooms":
        request.tm.doom()
    else:
        request.tm.abort()
        request.tm.begin()
    return Response("Aborted")


def untold(request):
    """What is raised for a userid that other processes cannot be told."""
    refused = None
    try:
        request.channels.disconnect(Person("ann"))
    except TypeError as error:
        refused = str(error)
    return Response(refused)


# Functions of a websocket.


async def echoes(websocket):
    await websocket.accept()
    async for message in websocket:
        await websocket.send(message)


async def tells(websocket):
    """Tells its process, and echoes."""
    await websocket.accept()
    await websocket.send(str(os.getpid()))
    async for message in websocket:
        await websocket.send(message)


async def relays(websocket):
    await websocket.accept()
    async with websocket.relay("news"):
        await websocket.send("begun")
        await asyncio.Event().wait()


async def sleeps(websocket):
    await websocket.accept()
    await asyncio.Event().wait()


async def tidies(websocket):
    """Takes its time in the end."""
    await websocket.accept()
    try:
        await websocket.receive()
    finally:
        await asyncio.sleep(0.3)
        happened["tidied"] += 1


async def floods(websocket):
    await websocket.accept()
    while goes_on(websocket.path_params):
        await websocket.send(bytes(2**16))


def goes_on(params):
    """Whether there is more to send: to the next one there is none."""
    return params["name"] != "next"


async def connects(websocket):
    await asyncio.Event().wait()


async def leaves(websocket):
    """Puts its own user out, and goes on with the handshake."""
    await websocket.channels.disconnect(websocket.userid, "logged out")
    await websocket.accept()
    await websocket.receive()


async def puts_out(websocket):
    """Puts out whom it is told to."""
    await websocket.accept()
    async for text in websocket:
        await websocket.channels.disconnect(userid_of(text), "put out")
        await websocket.send("done")


# Other websockets.


async def plain_echoes(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
    happened[f"plain_echoes heard {event['code']} {event.get('reason')}"] += 1


async def plain_sleeps(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.Event().wait()


async def plain_ticks(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "text": "tick"})
        await asyncio.sleep(0.05)


async def plain_floods(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while goes_on(scope["path_params"]):
        await send({"type": "websocket.send", "bytes": bytes(2**16)})


async def plain_connects(scope, receive, send):
    await receive()
    await asyncio.Event().wait()


# Event streams.


async def streams(stream):
    async with stream.relay("news"):
        await stream.wait_closed()


async def stream_sleeps(stream):
    await stream.send("begun")
    await asyncio.Event().wait()


async def stream_begins(stream):
    await asyncio.Event().wait()


async def stream_floods(stream):
    await stream.send("begun")
    while goes_on(stream.path_params):
        await stream.send("x" * 2**16)


# Http consumers.

START = {"type": "http.response.start", "status": 200, "headers": []}


async def http_ticks(scope, receive, send):
    await send(START)
    while True:
        await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
        await asyncio.sleep(0.05)


async def http_listens(scope, receive, send):
    await send(START)
    await send({"type": "http.response.body", "body": b"begun\n", "more_body": True})
    while True:
        await receive()


async def http_floods(scope, receive, send):
    await send(START)
    while goes_on(scope["path_params"]):
        await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
    await send({"type": "http.response.body"})


async def http_begins(scope, receive, send):
    await asyncio.Event().wait()


def counted(func):
    """``func``, counting under its name and that of its client when it begins and ends."""

    @contextlib.contextmanager
    def noted(params):
        name = f"{func.__name__}-{params['name']}"
        happened[f"{name} began"] += 1
        try:
            yield
        finally:
            happened[f"{name} ended"] += 1

    if func.__code__.co_argcount == 1:

        @functools.wraps(func)
        async def function(connection):
            with noted(connection.path_params):
                await func(connection)

        return function

    @functools.wraps(func)
    async def consumer(scope, receive, send):
        with noted(scope["path_params"]):
            await func(scope, receive, send)

    return consumer


PAGES = (home, state, async_logout, banned, aborted, untold)
WEBSOCKETS = (echoes, tells, relays, sleeps, tidies, connects, leaves, puts_out)
PLAIN = (plain_echoes, plain_sleeps, plain_ticks, plain_connects)
STREAMS = (streams, stream_sleeps, stream_begins)
REQUESTS = (http_ticks, http_listens, http_begins)


def main(global_config, **settings):
    settings = {
        **settings,
        "asgi.channels": os.environ.get("CHANNELS", "memory://"),
        "asgi.channels.timeout": os.environ.get("CHANNELS_TIMEOUT", "5"),
        "asgi.leave_timeout": "1",
        "tm.manager_hook": "pyramid_tm.explicit_manager",
    }
    with Configurator(settings=settings) as config:
        config.include("pyramid_tm")
        config.include("pyramid_asgi_consumers")
        has_members(config)
        for view in PAGES:
            path = "/" if view is home else f"/{view.__name__}"
            config.add_route(view.__name__, path)
            permission = NO_PERMISSION_REQUIRED
            config.add_view(view, route_name=view.__name__, permission=permission)
        alone = {"permission": "stay", "max_connections": 1}
        for func in WEBSOCKETS:
            path = f"/{func.__name__}/{{name}}"
            config.add_websocket(path, counted(func), permission="stay")
        config.add_websocket("/floods/{name}", counted(floods), **alone)
        for func in PLAIN:
            path = f"/{func.__name__}/{{name}}"
            config.add_asgi_consumer(path, "websocket", counted(func), permission="stay")
        config.add_asgi_consumer(
            "/plain_floods/{name}", "websocket", counted(plain_floods), **alone
        )
        for func in STREAMS:
            path = f"/{func.__name__}/{{name}}"
            config.add_event_stream(path, counted(func), permission="stay")
        config.add_event_stream("/stream_floods/{name}", counted(stream_floods), **alone)
        for func in REQUESTS:
            path = f"/{func.__name__}/{{name}}"
            config.add_asgi_consumer(path, "http", counted(func), permission="stay")
        config.add_asgi_consumer("/http_floods/{name}", "http", counted(http_floods), **alone)
        return config.make_asgi_app()


app = main({})
if os.environ.get("AROUND", "nothing") != "nothing":
    app = AROUND[os.environ["AROUND"]](AROUND["wrapped"](app))
