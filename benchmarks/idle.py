"""What an idle connection takes of the server's memory: bare ASGI, and ours.

``plain``
    A websocket without a request: ``add_websocket``.
``guarded``
    One with a permission, whose user a header names.
``subscribed``
    One that relays a channel.
``streaming``
    An event stream that relays a channel.
"""

from pyramid.config import Configurator

from benchmarks.command import main
from benchmarks.handshakes import FRIEND, Policy
from benchmarks.support import (
    Measured,
    Table,
    Variant,
    handshake,
    opened,
    received,
    request,
    serving,
)

#: They come first, and pay for what all share.
FIRST = 50


async def bare_socket(scope, receive, send):
    if scope["type"] != "websocket":
        raise ValueError(scope["type"])
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "ready"})
    await receive()


def bare():
    return bare_socket


async def plain(websocket):
    await websocket.accept()
    await websocket.send("ready")
    await websocket.wait_closed()


async def subscribed(websocket):
    await websocket.accept()
    async with websocket.relay("news"):
        await websocket.send("ready")
        await websocket.wait_closed()


async def streaming(stream):
    async with stream.relay("news"):
        await stream.send("ready")
        await stream.wait_closed()


def ours():
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(Policy())
        config.add_websocket("/plain", plain)
        config.add_websocket("/guarded", plain, permission="view")
        config.add_websocket("/subscribed", subscribed)
        config.add_event_stream("/streaming", streaming)
        return config.make_asgi_app()


class Idle(Table):
    name = "idle"
    title = "Memory of an idle connection"
    units = ("bytes/connection",)
    less_is_better = True
    reference = "bare"
    rounds = 5
    sizes = {"sockets": 2000}
    quick_sizes = {"sockets": 500}
    variants = {"bare": Variant("benchmarks.idle:bare")} | dict.fromkeys(
        ("plain", "guarded", "subscribed", "streaming"), Variant("benchmarks.idle:ours")
    )

    def measure(self, variant, ground, size, seconds):
        make = request if variant == "streaming" else handshake
        asking = make(f"/{variant}", FRIEND)
        status = b"HTTP/1.1 200" if variant == "streaming" else b"HTTP/1.1 101"
        connections = []
        wrong = 0
        with serving(self.variants[variant].app) as server:
            for number in (FIRST, size["sockets"]):
                before = server.memory()
                for connection, came in opened(server.port, [asking] * number):
                    connections.append(connection)
                    while came.startswith(status) and b"ready" not in came:
                        came += received(connection)
                    wrong += not came.startswith(status)
            used = server.memory() - before
        for connection in connections:
            connection.close()
        return Measured((used / size["sockets"],), wrong)


TABLES = [Idle()]

if __name__ == "__main__":
    main(__doc__, TABLES)
