"""The application of ``test_leaving_servers.py``: what goes on when its client has left."""

import asyncio
import contextlib
import itertools
import logging
from collections import Counter

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers.exceptions import WebSocketDisconnect
from tests.support.leaving import look_often
from tests.support.logs import log_to_stderr
from tests.support.sent import FILLER

log_to_stderr()
look_often()
log = logging.getLogger("leavingapp")

#: What has happened so far, shown by the page ``/state``.
happened: Counter = Counter()


def home(request):
    return Response("A Pyramid page")


def state(request):
    return Response(json_body=happened)


def endless(request):
    """Bytes without an end, made by a thread as fast as it can."""
    name = request.params["name"]

    def body():
        try:
            while True:
                yield FILLER
        finally:
            happened[f"{name} ended"] += 1

    return Response(app_iter=body(), content_type="application/octet-stream")


# Functions of a WebSocket.


async def silent(websocket):
    """Receives and sends nothing."""
    await websocket.accept()
    await asyncio.Event().wait()


async def flood(websocket):
    await websocket.accept()
    while True:
        happened[f"{websocket.path_params['name']} sent"] += 1
        await websocket.send(FILLER)


async def echo(websocket):
    await websocket.accept()
    async for message in websocket:
        await websocket.send(message)


async def plain_echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


async def subscriber(websocket):
    await websocket.accept()
    name = websocket.path_params["name"]
    async with websocket.channels.subscribe(name) as events:
        await websocket.channels.publish(name, "all that ever comes")
        async for event in events:
            await websocket.send(event.json)


async def relaying(websocket):
    """Relays, and does something else meanwhile."""
    await websocket.accept()
    async with websocket.relay(websocket.path_params["name"]):
        await asyncio.Event().wait()


async def swallows(websocket):
    """Tries again, whatever it is told."""
    await websocket.accept()
    await websocket.send("hello")
    ways = {
        "receive": websocket.receive,
        "iteration": websocket.wait_closed,
        "send": lambda: websocket.send("x"),
        "accept": websocket.accept,
        "close": websocket.close,
    }
    with contextlib.suppress(WebSocketDisconnect):
        await websocket.receive()
    while True:
        try:
            await ways[websocket.path_params["how"]]()
        except Exception:
            continue


async def impatient(websocket):
    """Receives with timeouts of all lengths, and answers with how many came."""
    await websocket.accept()
    received = []
    attempts = itertools.count()
    while True:
        attempt = next(attempts)
        try:
            received.append(await asyncio.wait_for(websocket.receive(), attempt % 4 * 0.0005))
        except asyncio.TimeoutError:
            continue
        if received[-1] == "end":
            break
    await websocket.send(" ".join(received))


async def plain_impatient(scope, receive, send):
    """The same with tasks that it cancels itself."""
    await receive()
    await send({"type": "websocket.accept"})
    received = []
    attempts = itertools.count()
    while True:
        attempt = next(attempts)
        waiting = asyncio.ensure_future(receive())
        await asyncio.wait({waiting}, timeout=attempt % 4 * 0.0005)
        waiting.cancel()
        await asyncio.wait({waiting})
        if not waiting.cancelled():
            received.append(waiting.result()["text"])
            if received[-1] == "end":
                break
    await send({"type": "websocket.send", "text": " ".join(received)})


async def lingers(websocket):
    """Goes on after it has heard that its client has left."""
    await websocket.accept()
    try:
        await websocket.send("hello")
        how = websocket.path_params["how"]
        if how == "iteration":
            assert [message async for message in websocket] == []
        elif how == "receive":
            await websocket.receive()
        elif how == "wait_closed":
            await websocket.wait_closed()
        else:
            while True:
                await websocket.send("x")
                await asyncio.sleep(0.01)
    except WebSocketDisconnect:
        happened[f"{websocket.path_params['name']} was told"] += 1
    await asyncio.Event().wait()


# Other consumers.


async def plain_flood(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        happened[f"{scope['path_params']['name']} sent"] += 1
        await send({"type": "websocket.send", "bytes": FILLER})


async def plain_ticks(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "text": "tick"})
        await asyncio.sleep(0.05)


async def plain_chat(scope, receive, send):
    """Sends, while a task of its own receives; that one goes on where ``how`` says so."""
    await receive()
    await send({"type": "websocket.accept"})

    async def read():
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect" and scope["path_params"]["how"] == "ends":
                return

    reader = asyncio.create_task(read())
    try:
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await asyncio.sleep(0.05)
    finally:
        reader.cancel()


START = {"type": "http.response.start", "status": 200, "headers": []}


async def http_flood(scope, receive, send):
    await send(START)
    while True:
        happened[f"{scope['path_params']['name']} sent"] += 1
        await send({"type": "http.response.body", "body": FILLER, "more_body": True})


async def http_events(scope, receive, send):
    """A stream of events as one writes it by hand, the last of which never comes."""
    await send(START)
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
    await asyncio.Event().wait()


async def http_ticks(scope, receive, send):
    await send(START)
    while True:
        await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
        await asyncio.sleep(0.05)


async def http_waits(scope, receive, send):
    """Answers when something has happened, which it never does."""
    await asyncio.Event().wait()


async def http_upload(scope, receive, send):
    """Reads the request's body, and answers for ever."""
    size = 0
    more = True
    while more:
        message = await receive()
        size += len(message["body"])
        more = message["more_body"]
    await send(START)
    await send({"type": "http.response.body", "body": b"%d read\n" % size, "more_body": True})
    await asyncio.Event().wait()


async def http_listens(scope, receive, send):
    """Notices by itself that its client has left, and has something to do then."""
    await send(START)
    await send({"type": "http.response.body", "body": b"listening", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
    happened[f"{scope['path_params']['name']} heard of it"] += 1
    await asyncio.sleep(0.4)
    happened[f"{scope['path_params']['name']} finished"] += 1


async def drained(receive):
    """A task beside the consumer, which hears that the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def http_feed(scope, receive, send):
    """Sends, while a task of its own receives."""
    drain = asyncio.create_task(drained(receive))
    await send(START)
    while not drain.done():
        await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
        await asyncio.sleep(0.05)
    # Servers tell this themselves, or the package does.
    try:
        await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
    except OSError:
        happened[f"{scope['path_params']['name']} was told"] += 1
        raise


async def http_insists(scope, receive, send):
    """Sends, whatever comes of it, while a task of its own receives."""
    drain = asyncio.create_task(drained(receive))
    await send(START)
    while True:
        try:
            await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
        except OSError:
            assert drain.done()
            continue
        await asyncio.sleep(0.01)


async def http_afterwards(scope, receive, send):
    """Has something to do after its response."""
    await send(START)
    await send({"type": "http.response.body", "body": b"done"})
    await asyncio.sleep(0.4)
    happened[f"{scope['path_params']['name']} finished"] += 1


def noted(func):
    """``func``, noting when it begins and when it ends."""

    async def with_notes(*args):
        connection = args[0]
        params = connection["path_params"] if len(args) == 3 else connection.path_params
        happened[f"{params['name']} began"] += 1
        try:
            await func(*args)
        finally:
            happened[f"{params['name']} ended"] += 1

    if func.__code__.co_argcount == 1:

        async def function(websocket):
            await with_notes(websocket)

        return function

    async def consumer(scope, receive, send):
        await with_notes(scope, receive, send)

    return consumer


def make_app():
    with Configurator(settings={"asgi.leave_timeout": "0.5"}) as config:
        config.include("pyramid_asgi_consumers")
        for view in (home, state, endless):
            path = "/" if view is home else f"/{view.__name__}"
            config.add_route(view.__name__, path)
            config.add_view(view, route_name=view.__name__)
        for func in (silent, flood, echo, subscriber, relaying):
            config.add_websocket(f"/{func.__name__}/{{name}}", noted(func), max_connections=2)
        config.add_websocket("/lingers/{how}/{name}", noted(lingers))
        config.add_websocket("/impatient/{name}", noted(impatient))
        config.add_asgi_consumer("/plain_impatient/{name}", "websocket", noted(plain_impatient))
        config.add_websocket("/swallows/{how}/{name}", noted(swallows))
        config.add_asgi_consumer("/plain_chat/{how}/{name}", "websocket", noted(plain_chat))
        for consumer in (plain_flood, plain_echo, plain_ticks):
            path = f"/{consumer.__name__}/{{name}}"
            config.add_asgi_consumer(path, "websocket", noted(consumer))
        for consumer in (
            http_flood,
            http_events,
            http_ticks,
            http_waits,
            http_upload,
            http_listens,
            http_feed,
            http_insists,
            http_afterwards,
        ):
            path = f"/{consumer.__name__}/{{name}}"
            config.add_asgi_consumer(path, "http", noted(consumer))
        config.add_asgi_consumer(
            "/guarded/{name}", "http", noted(http_events), permission=NO_PERMISSION_REQUIRED
        )
        return config.make_asgi_app()


app = make_app()
