"""The application that the servers serve in ``test_around_servers.py``: one inside many others."""

import asyncio
from functools import partial

from hypercorn.middleware import DispatcherMiddleware
from pyramid.config import Configurator
from pyramid.response import Response
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.support.asgi import http_scope, run
from tests.support.sent import FILLER


def where(request):
    names = ("SCRIPT_NAME", "PATH_INFO")
    environ = {name: request.environ[name] for name in names}
    return Response(json_body={**environ, "url": request.route_path("where")})


def crash_late(request):
    def body():
        yield FILLER
        raise RuntimeError("late-crash")

    return Response(app_iter=body(), content_type="text/plain")


async def http_crash_late(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": FILLER, "more_body": True})
    raise RuntimeError("late-crash")


async def consumer(websocket):
    await websocket.accept()
    await websocket.send_json(
        {"root_path": websocket.scope["root_path"], "path_params": websocket.path_params}
    )
    await websocket.close(4321, "enough")


async def guarded(websocket):
    await websocket.accept(headers=[("X-Kind", "guarded")])
    await websocket.send(websocket.request.websocket_url("guarded"))
    await websocket.close(1011, "enough")


def application(mounts=()):
    """An application with pages and consumers, and others below it."""
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_route("where", "/where")
        config.add_view(where, route_name="where")
        config.add_route("crash-late", "/crash-late")
        config.add_view(crash_late, route_name="crash-late")
        config.add_asgi_consumer("/consumer/crash-late", "http", http_crash_late)
        config.add_websocket("/ws/{name}", consumer)
        config.add_websocket("/guarded", guarded, name="guarded")
        for prefix, app in mounts:
            config.add_asgi_app(prefix, app)
        return config.make_asgi_app()


def starlette(prefix, app):
    return Starlette(routes=[Mount(prefix, app)])


def dispatcher(prefix, app):
    return DispatcherMiddleware({prefix: app})


# What is around the application without a prefix.


def rebuilt(app):
    """Makes a scope of its own, of what it knows of the old one."""

    async def rebuilding(scope, receive, send):
        known = ("type", "method", "path", "raw_path", "query_string", "root_path")
        own = {key: scope[key] for key in known if key in scope}
        own["headers"] = [(name, value) for name, value in scope["headers"]]
        own["asgi"] = {"version": "3.0"}

        async def own_send(message):
            await send(message)

        await app(own, receive, own_send)

    return rebuilding


def elsewhere(app):
    """Does so, and runs the application in a task of its own."""

    async def running(scope, receive, send):
        await asyncio.create_task(rebuilt(app)(scope, receive, send))

    return running


def partly(app):
    """Its ``send`` is a partial, as Daphne's is."""

    async def sending(send, message):
        await send(message)

    async def wrapping(scope, receive, send):
        await app(scope, receive, partial(sending, send))

    return wrapping


def within(app):
    """Answers with what ``app`` answers to a request of its own, which the server has not seen."""

    async def asking(scope, receive, send):
        try:
            await run(app, http_scope(scope["path"], raw_path=scope["raw_path"] + b"?"))
        except RuntimeError as error:
            said = str(error)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said.encode()})

    return asking


AROUND = {"rebuilt": rebuilt, "elsewhere": elsewhere, "partly": partly, "within": within}

APPS = {
    "/starlette": starlette("/starlette", application()),
    "/dispatcher": dispatcher("/dispatcher", application()),
    "/both": dispatcher("/both", starlette("/inner", application())),
    **{f"/{name}": around(application()) for name, around in AROUND.items()},
}
ours = application([("/ours", application([("/again", starlette("/deep", application()))]))])


async def app(scope, receive, send):
    """Pick an application by the first part of the path; those of AROUND do not get to know it."""
    if scope["type"] == "lifespan":
        return await ours(scope, receive, send)
    first, slash, rest = scope["path"][1:].partition("/")
    chosen = APPS.get(f"/{first}", ours)
    if first in AROUND:
        scope["path"] = slash + rest
    await chosen(scope, receive, send)
