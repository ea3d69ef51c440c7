"""How many messages per second reach the websockets of one process.

Each measurement starts a Uvicorn of its own, opens the websockets, and has the first of them send a
text, which all get, when all have got the one before. All send the same text but python-socketio,
whose packets have a name. Django Channels has its layer in memory.
"""

import contextlib

from pyramid.config import Configurator

from benchmarks.command import main
from benchmarks.support import (
    Audience,
    Table,
    Variant,
    handshake,
    has_frame,
    of_client,
    of_server,
    rates,
    received_until,
    serving,
    websockets,
)


def bare():
    """A loop over all websockets."""
    sends = set()

    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            raise ValueError(scope["type"])
        await receive()
        await send({"type": "websocket.accept"})
        sends.add(send)
        while (message := await receive())["type"] == "websocket.receive":
            told = {"type": "websocket.send", "text": f'"{message["text"]}"'}
            for each in sends:
                await each(told)
        sends.remove(send)

    return app


async def room(websocket):
    await websocket.accept()
    async with websocket.relay("news"):
        async for text in websocket:
            await websocket.channels.publish("news", text)


def ours():
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_websocket("/ws", room)
        return config.make_asgi_app()


class Broadcast(Table):
    name = "broadcast"
    title = "A message to the websockets of one process"
    units = ("deliveries/s", "deliveries/s of processor time")
    reference = "ours"
    sizes = {"sockets": 500}
    variants = {
        "bare": Variant("benchmarks.broadcast:bare"),
        "ours": Variant("benchmarks.broadcast:ours"),
        "starlette": Variant("benchmarks.peers.starlette:broadcast", ("starlette",)),
        "litestar": Variant("benchmarks.peers.litestar:broadcast", ("litestar",)),
        "python-socketio": Variant("benchmarks.peers.socketio:broadcast", ("socketio",)),
        "channels": Variant("benchmarks.peers.django:broadcast", ("channels", "django")),
    }

    def measure(self, variant, ground, size, seconds):
        opened = socketio if variant == "python-socketio" else plain
        says, told = PACKETS if variant == "python-socketio" else ("{}", '"{}"')
        number = 0
        with serving(self.variants[variant].app) as server:
            connections = list(opened(server.port, size["sockets"]))
            with contextlib.closing(Audience(connections)) as audience:

                def turn():
                    nonlocal number
                    number += 1
                    text = f"message {number:08}: " + "x" * 80
                    connections[0].sendall(of_client(says.format(text)))
                    expected = of_server(told.format(text))
                    right = audience.right(has_frame, expected.__eq__)
                    return right, len(connections) - right

                return rates(server, seconds, turn)


def plain(port, number):
    for connection, _ in websockets(port, [handshake("/ws")] * number):
        yield connection


#: What is sent and what comes: the packets of Engine.IO 4 and Socket.IO 5.
PACKETS = '42["say","{}"]', '42["news","{}"]'


def socketio(port, number):
    path = "/socket.io/?EIO=4&transport=websocket"
    for connection, _ in websockets(port, [handshake(path)] * number):
        connection.sendall(of_client("40"))
        received_until(connection, lambda data: b'40{"sid"' in data and data.endswith(b"}"))
        yield connection


TABLES = [Broadcast()]

if __name__ == "__main__":
    main(__doc__, TABLES)
