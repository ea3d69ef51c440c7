"""A server's side of a websocket, and applications of one function."""

import asyncio

from pyramid.config import Configurator

from pyramid_asgi_consumers import WebSocket
from tests.support.asgi import CONNECT, run, websocket_scope


def left(code=1001, reason="away"):
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


class Gone(OSError):
    """What a server's ``send`` raises when the client has left."""


class Server:
    """A server's side of a websocket: it receives ``events`` and keeps what was ``sent``."""

    def __init__(self, *events):
        self.queue = asyncio.Queue()
        for event in (CONNECT, *events):
            self.queue.put_nowait(event)
        self.sent = []
        self.broken = None

    async def receive(self):
        return await self.queue.get()

    async def send(self, event):
        if self.broken is not None:
            raise self.broken
        self.sent.append(event)

    def websocket(self, **scope):
        return WebSocket(websocket_scope(**scope), self.receive, self.send)


async def opened(*events, **scope):
    """A websocket that is open, and its server."""
    server = Server(*events)
    websocket = server.websocket(**scope)
    await websocket.accept()
    server.sent.clear()
    return websocket, server


def application(func, path="/ws", settings=None, **arguments):
    config = Configurator(settings=settings)
    config.include("pyramid_asgi_consumers")
    config.add_websocket(path, func, **arguments)
    return config.make_asgi_app()


async def serve(func, *events, scope=None, **arguments):
    """What the server is told by ``func``'s application for these ``events``."""
    app = application(func, **arguments)
    return await run(app, scope or websocket_scope(), CONNECT, *events)
