"""The project that pserve and the other ``p*`` commands are run with."""

import asyncio
import logging
import os
import threading
from contextlib import asynccontextmanager

from pyramid.authorization import Allow, Everyone
from pyramid.config import Configurator
from pyramid.response import Response
from starlette.applications import Starlette

log = logging.getLogger("pserveapp")

INI = """
[app:main]
use = call:tests.apps.{app}:main
page = {page}
gate = {gate}

[server:main]
use = egg:pyramid_asgi_consumers#{server}
{options}

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys = short

[logger_root]
level = INFO
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = short

[formatter_short]
format = %(levelname)s|%(name)s|%(message)s
"""


def write_ini(path, server="uvicorn", options=None, page="first", gate="", app="pserveapp"):
    """Write an ini with the server's ``options`` to ``path``; return it."""
    lines = "\n".join(f"{name} = {value}" for name, value in (options or {}).items())
    path.write_text(INI.format(server=server, options=lines, page=page, gate=gate, app=app))
    return path


class Root:
    """Where everybody may join."""

    __acl__ = [(Allow, Everyone, "join")]

    def __init__(self, request):
        self.request = request


def home(request):
    return Response(f"The {request.registry.settings['page']} page")


def slow(request):
    """Answers once the file ``gate`` is there."""
    log.info("slow began")
    pace = threading.Event()
    while not os.path.exists(request.registry.settings["gate"]):
        pace.wait(0.02)
    return Response("slow answer")


def flood(request):
    """More than a client takes that reads nothing."""
    return Response(app_iter=[b"x" * 65536] * 1000, content_type="text/plain")


@asynccontextmanager
async def context(registry):
    log.info("The context is entered")
    yield {"entered": True}
    log.info("The context is left")


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def ticking(scope, receive, send):
    """Sends whether the websocket is open or not, until the client has left."""
    await receive()
    await send({"type": "websocket.accept"})
    left = asyncio.ensure_future(receive())
    while not left.done():
        await send({"type": "websocket.send", "text": str(scope["state"]["entered"])})
        await asyncio.wait([left], timeout=0.001)


def main(global_config, **settings):
    with Configurator(settings=settings, root_factory=Root) as config:
        config.include("pyramid_asgi_consumers")
        for path, view in {"/": home, "/slow": slow, "/flood": flood}.items():
            config.add_route(view.__name__, path)
            config.add_view(view, route_name=view.__name__)
        config.add_asgi_consumer("/ws", "websocket", echo)
        config.add_asgi_consumer("/ticking", "websocket", ticking)
        config.add_asgi_consumer("/guarded", "websocket", echo, name="guarded", permission="join")
        config.add_asgi_app("/starlette", Starlette())
        config.add_asgi_lifespan(context)
        return config.make_asgi_app()


def around(global_config, **settings):
    """A factory of WSGI middleware, for a pipeline."""
    return lambda app: lambda environ, start_response: app(environ, start_response)


def composite(loader, global_config, **settings):
    """A factory of a composite, which is a WSGI application."""
    app = loader.get_app("app")
    return lambda environ, start_response: app(environ, start_response)
