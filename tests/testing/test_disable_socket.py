"""``TestApp`` where pytest-socket forbids sockets (``pytest --disable-socket``)."""

import asyncio
import socket

import pytest
from pyramid.config import Configurator
from pyramid.response import Response

from pyramid_asgi_consumers.testing import TestApp


@pytest.fixture
def app(socket_disabled):
    async def view(request):
        await asyncio.sleep(0)
        return Response("page")

    async def echo(websocket):
        await websocket.accept()
        async for message in websocket:
            await websocket.send(message)

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_route("view", "/")
        config.add_view(view, route_name="view")
        config.add_websocket("/ws", echo)
        return config.make_asgi_app()


def test_pages_and_websockets_without_sockets(app):
    with pytest.warns(UserWarning, match="tried to use socket"), pytest.raises(RuntimeError):
        socket.socket()
    testapp = TestApp(app)
    assert testapp.get("/").text == "page"
    with testapp.websocket("/ws") as websocket:
        websocket.send("hello")
        assert websocket.receive() == "hello"
