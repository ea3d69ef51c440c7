"""Applications with a view or a consumer each, and the consumers that tests have in common."""

import contextlib

import pytest
from pyramid.config import Configurator
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers.testing import TestApp, WebSocketDenied


def make(view=None, *consumers, lifespan=None, wsgi_app=None, **settings):
    """An application with one view at /, and consumers (path, protocol, callable, options)."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        if view is not None:
            config.add_route("view", "/")
            config.add_view(view, route_name="view")
        for path, protocol, consumer, *options in consumers:
            config.add_asgi_consumer(path, protocol, consumer, **dict(*options))
        if lifespan is not None:
            config.add_asgi_lifespan(lifespan)
        return config.make_asgi_app(wsgi_app)


def websocket_app(consumer, **options):
    return TestApp(make(None, ("/ws", "websocket", consumer, options)))


def http_app(consumer, **options):
    return TestApp(make(None, ("/http", "http", consumer, options)))


async def accept(receive, send, **more):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", **more})


async def echo(scope, receive, send):
    await accept(receive, send)
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


def denial(testapp, url, **options):
    with pytest.raises(WebSocketDenied) as denied, contextlib.ExitStack() as stack:
        stack.enter_context(testapp.websocket(url, **options))
    return denied.value


async def ok(send, body=b"ok", **more):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, **more})


OPEN = {"permission": NO_PERMISSION_REQUIRED}


def function_app(func, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.add_websocket("/ws", func)
        return TestApp(config.make_asgi_app())
