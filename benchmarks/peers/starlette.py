import asyncio

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser, requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from benchmarks import apps, handshakes, pages, streams


def stream():
    async def respond(request):
        return StreamingResponse(apps.chunks(), media_type="text/html")

    return Starlette(routes=[Route("/stream", respond)])


# Websockets.


async def echo(websocket):
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


def echoes():
    return Starlette(routes=[WebSocketRoute("/starlette", echo)])


def page():
    async def respond(request):
        return Response(pages.BODY)

    return Starlette(routes=[WebSocketRoute("/ws", echo), Route("/page", respond)])


def broadcast():
    """A loop over all websockets."""
    websockets = set()

    async def room(websocket):
        await websocket.accept()
        websockets.add(websocket)
        try:
            while True:
                text = f'"{await websocket.receive_text()}"'
                for each in websockets:
                    await each.send_text(text)
        except WebSocketDisconnect:
            websockets.discard(websocket)

    return Starlette(routes=[WebSocketRoute("/ws", room)])


def broadcast_beside_pages():
    from benchmarks.peers.a2wsgi import pages as wsgi_pages

    app = broadcast()
    app.mount("/", wsgi_pages())
    return app


class Tokens(AuthenticationBackend):
    async def authenticate(self, conn):
        user = handshakes.USERS.get(conn.headers.get("User"))
        return None if user is None else (AuthCredentials(["authenticated"]), SimpleUser(user))


async def stay(websocket):
    await websocket.accept()
    try:
        await websocket.receive_text()
    except WebSocketDisconnect:
        pass


def accepting():
    return Starlette(routes=[WebSocketRoute("/ws", stay)])


def guarding():
    return Starlette(
        routes=[WebSocketRoute("/ws", requires("authenticated")(stay))],
        middleware=[Middleware(AuthenticationMiddleware, backend=Tokens())],
    )


# Event streams.


class Events:
    """A generator for each reader, over a queue of its own."""

    def __init__(self):
        self.queues = set()
        self.app = Starlette(routes=[Route("/", self.respond)])

    async def __call__(self, scope, receive, send):
        await self.app({**scope, "path": "/"}, receive, send)

    async def respond(self, request):
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(self.events(), 200, headers, "text/event-stream")

    async def events(self):
        queue = asyncio.Queue()
        self.queues.add(queue)
        try:
            yield b"id: 0\n\n"
            while True:
                yield streams.frame(await queue.get())
        finally:
            self.queues.remove(queue)

    async def publish(self, number):
        for queue in self.queues:
            queue.put_nowait(number)
