"""How many messages per second are echoed: bare ASGI, WebSocket, Starlette.

One Uvicorn serves them all, on connections that stay open, which echo in turns of a fraction of a
second. Each connection sends a message and waits for its echo. The setting ``--wsproto 1`` is for
Uvicorn's other implementation.
"""

import asyncio
import contextlib
import pkgutil
import time

from pyramid.config import Configurator

from benchmarks.command import main
from benchmarks.support import DEADLINE, Measured, Table, Variant, echoing, serving

MESSAGE = "x" * 32


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message["text"]})


async def websocket_echo(websocket):
    await websocket.accept()
    async for message in websocket:
        await websocket.send(message)


def ours():
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_asgi_consumer("/consumer", "websocket", echo)
        config.add_websocket("/websocket", websocket_echo)
        limits = {"max_message": 2**16, "max_rate": "1000000000/s"}
        config.add_websocket("/limited", websocket_echo, **limits)
        return config.make_asgi_app()


def bare():
    return echo


VARIANTS = {
    "bare": Variant("benchmarks.websocket:bare"),
    "consumer": Variant("benchmarks.websocket:ours"),
    "websocket": Variant("benchmarks.websocket:ours"),
    "limited": Variant("benchmarks.websocket:ours"),
    "starlette": Variant("benchmarks.peers.starlette:echoes", ("starlette",)),
}


def make_app():
    there = {variant.app for variant in VARIANTS.values() if not variant.missing()}
    made = {app: pkgutil.resolve_name(app)() for app in there}
    serving = {f"/{name}": made.get(variant.app) for name, variant in VARIANTS.items()}

    async def app(scope, receive, send):
        await serving.get(scope.get("path"), made["benchmarks.websocket:ours"])(
            scope, receive, send
        )

    return app


class Websocket(Table):
    name = "websocket"
    title = "The echo of a text of 32 bytes on a websocket"
    units = ("echoes/s", "echoes/s of processor time")
    reference = "bare"
    variants = VARIANTS
    rounds = 100
    seconds = 0.1
    quick_rounds = 10
    quick_seconds = 0.1
    sizes = {"connections": 16, "wsproto": 0}

    @contextlib.contextmanager
    def prepared(self, variants, size):
        ws = "wsproto" if size["wsproto"] else "websockets-sansio"
        loop = asyncio.new_event_loop()
        with serving("benchmarks.websocket:make_app", ws=ws) as server, contextlib.closing(loop):
            clients = {}
            for variant in variants:
                opening = echoing(server.port, f"/{variant}", size["connections"], MESSAGE)
                clients[variant] = loop.run_until_complete(opening)
            yield server, loop, clients
            for each in clients.values():
                for client in each:
                    client.transport.abort()
            loop.run_until_complete(asyncio.sleep(0))

    def measure(self, variant, ground, size, seconds):
        server, loop, clients = ground
        return loop.run_until_complete(turn(server, clients[variant], seconds))


async def turn(server, clients, seconds):
    right, wrong = counted(clients)
    start, busy = time.perf_counter(), server.processor_time()
    for client in clients:
        client.running = True
        client.send()
    await asyncio.sleep(seconds)
    for client in clients:
        client.running = False
    await asyncio.wait_for(asyncio.gather(*(client.idle for client in clients)), DEADLINE)
    elapsed, busy = time.perf_counter() - start, server.processor_time() - busy
    right, wrong = (
        now - before for now, before in zip(counted(clients), (right, wrong), strict=True)
    )
    return Measured((right / elapsed, right / busy), wrong)


def counted(clients):
    return sum(client.right for client in clients), sum(client.wrong for client in clients)


TABLES = [Websocket()]

if __name__ == "__main__":
    main(__doc__, TABLES)
