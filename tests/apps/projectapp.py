"""The project of ``project.py`` as the servers serve it in ``test_handshake_servers.py``.

The environment variable ``DATABASE`` is the file of its database.
"""

import os

from pyramid.events import NewResponse
from pyramid.httpexceptions import HTTPFound
from pyramid.response import Response

from tests.support.project import Room, make_config, make_engine


def mark(event):
    """Set cookies and a header on every response but that of ``/login``."""
    if event.request.path != "/login":
        event.response.set_cookie("first", "1")
        event.response.set_cookie("second", "2")
        event.response.headers["X-Marked"] = "yes"


def to_the_login_page(request):
    raise HTTPFound("/login")


def connections(request):
    """How many connections to the database are in use, but for this page's own."""
    return Response(str(engine.pool.checkedout() - 1))


async def export(scope, receive, send):
    text = f"for {scope['pyramid.userid']}".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


engine = make_engine(os.environ["DATABASE"])
config = make_config(engine)
config.add_subscriber(mark, NewResponse)
config.add_route("connections", "/connections")
config.add_view(connections, route_name="connections")
config.add_asgi_consumer("/moved", "websocket", export, factory=to_the_login_page)
config.add_asgi_consumer("/{room}/export", "http", export, permission="speak", factory=Room)
app = config.make_asgi_app()
