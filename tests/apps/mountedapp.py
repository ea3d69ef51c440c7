"""What the servers serve in ``test_mounted_servers.py``: applications mounted in others.

``inner`` has a context that counts how often it is entered. The outer ones run a lifespan of their
own and none of what they mount, but for Hypercorn's dispatcher.
"""

import logging
from collections import Counter
from contextlib import asynccontextmanager

from hypercorn.middleware import DispatcherMiddleware
from pyramid.config import Configurator
from pyramid.response import Response
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.support.logs import log_to_stderr

log_to_stderr()
log = logging.getLogger("mountedapp")


def make(name, mounted=None):
    """An application whose pages and websockets show the state of their scope."""
    happened = Counter()

    @asynccontextmanager
    async def context(registry):
        happened["entered"] += 1
        log.info("The context of %s is entered", name)
        yield {"name": name}
        log.info("The context of %s is left", name)

    def page(request):
        state = request.environ["asgi.scope"]["state"]
        return Response(json_body={"name": state["name"], **happened})

    async def websocket(websocket):
        await websocket.accept()
        await websocket.send_json({"name": websocket.scope["state"]["name"], **happened})

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        # Wherever it is mounted.
        config.add_route("page", "/*where")
        config.add_view(page, route_name="page")
        config.add_websocket("/*where", websocket)
        config.add_asgi_lifespan(context)
        if mounted is not None:
            # Twice, and yet it is one application.
            for prefix in ("/mounted", "/outer/mounted"):
                config.add_asgi_app(prefix, mounted)
        return config.make_asgi_app()


inner = make("inner")
nested = make("nested")


@asynccontextmanager
async def lifespan(app):
    log.info("The lifespan of the outer one has begun")
    yield {"name": "outer"}
    log.info("The lifespan of the outer one has ended")


starlette = Starlette(
    routes=[Mount("/inner", inner), Mount("/outer", make("outer", mounted=nested))],
    lifespan=lifespan,
)
dispatcher = DispatcherMiddleware({"/inner": inner, "/outer": nested})
