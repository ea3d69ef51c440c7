from pyramid.config import Configurator
from pyramid.view import view_config
from pyramid_asgi_consumers import websocket_config


@view_config(route_name="chat", renderer="chat.jinja2")
def page(request):
    return {}


@websocket_config("/live", name="live")
async def live(websocket):
    await websocket.accept()
    async with websocket.relay("chat"):
        async for text in websocket:
            await websocket.channels.publish("chat", {"text": text})


def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_jinja2")
        config.include("pyramid_asgi_consumers")
        config.add_route("chat", "/")
        config.scan(__name__)
        return config.make_asgi_app()
