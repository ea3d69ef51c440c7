"""An application for ``test_serving.py`` that tells what becomes of it."""

import asyncio
import contextlib
import threading
import urllib.request

from pyramid.config import Configurator
from pyramid.response import Response


def get(url):
    with urllib.request.urlopen(url, timeout=20) as response:
        return response.read().decode()


class Application:
    """``app`` is the application; ``events`` is what it has been through."""

    def __init__(self, **options):
        self.events = []
        with Configurator() as config:
            config.include("pyramid_asgi_consumers")
            config.add_route("page", "/")
            config.add_view(lambda request: self.page(request), route_name="page")
            config.add_route("state", "/state")
            config.add_view(self.state, route_name="state")
            config.add_websocket("/echo", self.echo)
            config.add_asgi_consumer("/stream", "http", self.stream)
            config.add_asgi_consumer("/stubborn", "http", self.stubborn)
            config.add_asgi_consumer("/exit", "http", self.exit)
            config.add_asgi_lifespan(options.get("lifespan", self.lifespan))
            self.app = config.make_asgi_app()
        self.text = "page"

    @contextlib.asynccontextmanager
    async def lifespan(self, registry):
        self.events.append("started")
        yield {"name": "state of the lifespan"}
        self.events.append("stopped")

    def page(self, request):
        return Response(f"{self.text} {threading.current_thread().name}")

    def state(self, request):
        return Response(request.environ["asgi.scope"]["state"]["name"])

    async def echo(self, websocket):
        await websocket.accept()
        try:
            async for message in websocket:
                await websocket.send(message)
        finally:
            self.events.append("websocket left")

    async def stream(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await asyncio.Event().wait()
        finally:
            self.events.append("stream left")

    async def stubborn(self, scope, receive, send):
        with contextlib.suppress(asyncio.CancelledError):
            await self.stream(scope, receive, send)
        try:
            await asyncio.Event().wait()
        finally:
            self.events.append("stubborn left")

    async def exit(self, scope, receive, send):
        async def background():
            raise SystemExit(3)

        await asyncio.ensure_future(background())
