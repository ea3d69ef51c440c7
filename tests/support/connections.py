"""Endpoints of one consumer."""

from pyramid_asgi_consumers.connection.endpoint import Endpoint, Limit
from pyramid_asgi_consumers.handshake.origins import OriginRule
from pyramid_asgi_consumers.mapper import Consumer

#: A denial.
START = {"type": "websocket.http.response.start", "status": 403, "headers": []}
BODY = {"type": "websocket.http.response.body", "body": b"no"}


def endpoint(app, protocol="websocket", max_connections=None, process=None):
    consumer = Consumer("/x", protocol, app, "app", (), max_connections)
    return Endpoint(consumer, OriginRule(), process or Limit(None), None, None)


async def accept_and_send(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        await send({"type": "websocket.send", "text": "x"})
