"""A websocket whose permission is a token that comes as a subprotocol, as scripts must send it."""

import logging
import sys

from pyramid.config import Configurator
from pyramid.response import Response


class TokenPolicy:
    """The user is who the offered ``token.NAME`` says."""

    def identity(self, request):
        offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        tokens = [each.strip() for each in offered if each.strip().startswith("token.")]
        return tokens[0].partition(".")[2] if tokens else None

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return self.identity(request) is not None


async def chat(websocket):
    chosen = websocket.scope["query_string"].decode()
    await websocket.accept(chosen)
    seen = websocket.request.headers
    await websocket.send_json(
        {
            "offered": websocket.subprotocols,
            "user": websocket.userid,
            "upgrade": [seen.get("Upgrade"), seen.get("Connection")],
            "version": seen.get("Sec-WebSocket-Version"),
        }
    )


def main():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.set_security_policy(TokenPolicy())
    config.add_route("home", "/")
    config.add_view(lambda request: Response("home"), route_name="home")
    config.add_websocket("/chat", chat, permission="chat")
    return config.make_asgi_app()


logging.basicConfig(stream=sys.stdout)
app = main()
