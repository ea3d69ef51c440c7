"""An application that fails in every way, watched by Sentry: ``test_sentry.py`` counts its reports.

Requests whose query ends in ``around`` go through Sentry's ASGI middleware, too.
"""

import logging
import sys
from collections import Counter

import sentry_sdk
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.integrations.pyramid import PyramidIntegration
from sentry_sdk.transport import Transport

from pyramid_asgi_consumers import run_in_request

reported = []


class Collecting(Transport):
    """Keeps what was raised, or logged, of each event."""

    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is not None:
            values = event.get("exception", {}).get("values")
            # An error that was logged without an exception.
            reported.append(values[-1]["value"] if values else event["logentry"]["formatted"])


def name(request):
    return request.params["name"]


def fail(request):
    raise RuntimeError(name(request))


async def fail_async(request):
    raise RuntimeError(name(request))


def fail_late(request):
    def chunks():
        yield b"x" * 100_000
        raise RuntimeError(name(request))

    return Response(app_iter=chunks())


def show(request):
    """How often each error was reported."""
    return Counter(reported)


def log(request):
    logging.getLogger("tests").warning(request.params["line"])
    return Response("logged")


async def fail_in_a_call(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await run_in_request(scope, fail)


async def fail_in_a_function(websocket):
    await websocket.accept()
    await websocket.run_in_request(fail)


async def fail_late_in_a_consumer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
    await run_in_request(scope, fail)


async def fail_caught(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    try:
        await run_in_request(scope, fail)
    except RuntimeError:
        logging.getLogger("tests").exception("A call failed")


async def fail_in_the_consumer(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    raise RuntimeError(scope["pyramid.request"].params["name"])


def main():
    sentry_sdk.init(
        "https://key@sentry.invalid/1", transport=Collecting, integrations=[PyramidIntegration()]
    )
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.add_route("home", "/")
    config.add_view(lambda request: Response("home"), route_name="home")
    for view in (fail, fail_async, fail_late, show, log):
        config.add_route(view.__name__, f"/{view.__name__}")
        renderer = "json" if view is show else None
        config.add_view(view, route_name=view.__name__, renderer=renderer)
    for consumer in (fail_in_a_call, fail_caught, fail_in_the_consumer):
        config.add_asgi_consumer(
            f"/{consumer.__name__}", "websocket", consumer, permission=NO_PERMISSION_REQUIRED
        )
    config.add_websocket(
        "/fail_in_a_function", fail_in_a_function, permission=NO_PERMISSION_REQUIRED
    )
    config.add_asgi_consumer(
        "/fail_late_in_a_consumer",
        "http",
        fail_late_in_a_consumer,
        permission=NO_PERMISSION_REQUIRED,
    )
    for protocol in ("websocket", "http"):
        config.add_asgi_consumer(f"/{protocol}", protocol, fail_in_a_call, factory=fail)
    return config.make_asgi_app()


logging.basicConfig(stream=sys.stdout)
pyramid_app = main()
wsgi_app = pyramid_app.wsgi_app
watched = SentryAsgiMiddleware(pyramid_app)


async def app(scope, receive, send):
    """The application, and beside it what goes straight to the server."""
    if scope.get("path") == "/bare/crash":
        raise RuntimeError("to the server")
    around = scope.get("query_string", b"").endswith(b"around")
    await (watched if around else pyramid_app)(scope, receive, send)
