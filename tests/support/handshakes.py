"""Guarded consumers, and their handshakes with the project of ``project.py``."""

from pyramid.security import NO_PERMISSION_REQUIRED

from tests.support.asgi import CONNECT, run, websocket_scope


class Consumer:
    """Accepts, or answers, and ends; keeps the scopes it was called with."""

    def __init__(self, headers=()):
        self.headers = list(headers)
        self.scopes = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept", "headers": self.headers})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": self.headers})
            await send({"type": "http.response.body", "body": b"answered"})


def declare(config, protocol="websocket", path="/x", *, headers=(), **arguments):
    consumer = Consumer(headers)
    arguments.setdefault("permission", NO_PERMISSION_REQUIRED)
    config.add_asgi_consumer(path, protocol, consumer, **arguments)
    return consumer


def add_page(config, view, path="/page"):
    config.add_route("page", path)
    config.add_view(view, route_name="page")


async def shake(app, path="/x", *headers, **more):
    """The first message of the answer to a websocket's handshake."""
    left = {"type": "websocket.disconnect", "code": 1000}
    return (await run(app, websocket_scope(path, headers, **more), CONNECT, left))[0]


def add_tween(config, tween):
    """``tween(handler, request)`` answers, outside of exception views and transactions."""
    config.registry.tween = tween
    config.add_tween(f"{__name__}.tween_factory", over="pyramid_tm.tm_tween_factory")


def tween_factory(handler, registry):
    return lambda request: registry.tween(handler, request)


def tracebacks(caplog):
    return [record.getMessage() for record in caplog.records if record.exc_info]
