"""A project that has moved with WhiteNoise, the debug toolbar and a ``Configurator`` of its own."""

from pathlib import Path

from pyramid.config import Configurator
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from whitenoise import WhiteNoise

from pyramid_asgi_consumers import WSGIBridge

STATIC = Path(__file__).parent.parent / "cookiecutter"


class OwnConfigurator(Configurator):
    """Wraps what it makes in middleware."""

    def make_wsgi_app(self):
        return WhiteNoise(super().make_wsgi_app(), root=str(STATIC), prefix="files/")


async def echo(websocket):
    await websocket.accept()
    async for message in websocket:
        await websocket.send(message)


def old(environ, start_response):
    """What a composite of the ini had beside the project."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['SCRIPT_NAME']} has {environ['PATH_INFO']}".encode()]


def main(global_config, **settings):
    with OwnConfigurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.include("pyramid_debugtoolbar")
        config.add_route("page", "/")
        config.add_view(lambda request: Response("<body>A page</body>"), route_name="page")
        config.add_asgi_app("/old", WSGIBridge(old))
        config.add_websocket("/echo", echo, permission=NO_PERMISSION_REQUIRED)
    return config.make_asgi_app()
