"""How many messages per second are echoed: bare ASGI, WebSocket, Starlette.

    python benchmarks/websocket.py [--ws wsproto] [--rounds 100] [--connections 16]

Starts Uvicorn with one application that serves them all, on connections that stay open, and lets
them echo in turns of a fraction of a second, in another order each round, so that what else the
machine does falls on all. Each connection sends a message and waits for its echo. Prints the median
of the messages per second and of its ratio to the bare application in the same round, with the
quartiles of that ratio: by the clock, and by the processor time of the server (Linux).
"""

import argparse
import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pyramid.config import Configurator
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

HOST = "127.0.0.1"
PAYLOAD = b"x" * 32
# RFC 6455 section 5.2: a final text frame, masked with zeros, and its echo, which is not masked.
REQUEST = bytes([0x81, 0x80 | len(PAYLOAD), 0, 0, 0, 0]) + PAYLOAD
ECHO = bytes([0x81, len(PAYLOAD)]) + PAYLOAD

VARIANTS = ("bare", "consumer", "websocket", "limited", "starlette")


# What is measured.


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


async def starlette_echo(websocket):
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


def make_app():
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_asgi_consumer("/consumer", "websocket", echo)
        config.add_websocket("/websocket", websocket_echo)
        limits = {"max_message": 2**16, "max_rate": "1000000000/s"}
        config.add_websocket("/limited", websocket_echo, **limits)
        ours = config.make_asgi_app()
    starlette = Starlette(routes=[WebSocketRoute("/starlette", starlette_echo)])

    async def app(scope, receive, send):
        serve = {"/bare": echo, "/starlette": starlette}.get(scope.get("path"), ours)
        await serve(scope, receive, send)

    return app


# How it is measured.


class Client(asyncio.Protocol):
    """Sends a message, waits for its echo, sends the next, until ``running`` is false."""

    running = False

    def __init__(self, path):
        self.path = path
        self.idle = asyncio.get_running_loop().create_future()
        self.opened = False
        self.received = bytearray()
        self.echoes = 0

    def connection_made(self, transport):
        self.transport = transport
        transport.write(
            f"GET {self.path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    def start(self):
        self.running = True
        self.idle = asyncio.get_running_loop().create_future()
        self.transport.write(REQUEST)

    def data_received(self, data):
        self.received += data
        if not self.opened:
            if b"\r\n\r\n" in self.received:
                if not self.received.startswith(b"HTTP/1.1 101"):
                    raise SystemExit(f"{self.path}: {self.received.decode()}")
                self.opened = True
                self.received.clear()
                self.idle.set_result(None)
        elif len(self.received) >= len(ECHO):
            if self.received != ECHO:
                raise SystemExit(f"{self.path}: not an echo: {bytes(self.received)!r}")
            self.received.clear()
            self.echoes += 1
            if self.running:
                self.transport.write(REQUEST)
            else:
                self.idle.set_result(None)


async def measure(server, port, options):
    """Return each variant's echoes per second of each round, by the clock and by processor time."""
    loop = asyncio.get_running_loop()
    clients = {variant: [] for variant in VARIANTS}
    for variant in VARIANTS:
        for _ in range(options.connections):
            made = loop.create_connection(lambda: Client(f"/{variant}"), HOST, port)  # noqa: B023
            clients[variant].append((await made)[1])
        await asyncio.gather(*(client.idle for client in clients[variant]))
    figures = {variant: [] for variant in VARIANTS}
    for _ in range(options.rounds):
        for variant in random.sample(VARIANTS, len(VARIANTS)):
            figures[variant].append(await turn(server, clients[variant], options.seconds))
    return figures


async def turn(server, clients, seconds):
    before = sum(client.echoes for client in clients)
    start, busy = time.perf_counter(), processor_time(server)
    for client in clients:
        client.start()
    await asyncio.sleep(seconds)
    for client in clients:
        client.running = False
    await asyncio.gather(*(client.idle for client in clients))
    echoes = sum(client.echoes for client in clients) - before
    elapsed, busy = time.perf_counter() - start, processor_time(server) - busy
    return echoes / elapsed, echoes / busy


def processor_time(server):
    """Return the seconds for which the server's main thread has run."""
    return int(Path(f"/proc/{server.pid}/schedstat").read_text().split()[0]) / 1e9


def start_server(port, ws):
    command = (
        f"{sys.executable} -m uvicorn --factory --port {port} --ws {ws} --no-access-log"
        " --ws-ping-interval 3600 --log-level warning benchmarks.websocket:make_app"
    )
    root = Path(__file__).resolve().parent.parent
    server = subprocess.Popen(
        command.split(), cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection((HOST, port), 1).close()
            return server
        except OSError:
            time.sleep(0.05)
    server.kill()
    raise SystemExit(f"{command} does not start")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ws", default="websockets-sansio", help="Uvicorn's implementation")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.1, help="per variant and round")
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    server = start_server(port, options.ws)
    try:
        figures = asyncio.run(measure(server, port, options))
    finally:
        server.terminate()
        server.wait(20)
    print(f"Uvicorn --ws {options.ws}, {options.connections} connections")
    for kind, by in enumerate(("by the clock", "by processor time")):
        print(f"{by:18} {'per second':>10} {'ratio':>6}   quartiles")
        bare = [rates[kind] for rates in figures["bare"]]
        for variant, measured in figures.items():
            rates = [rates[kind] for rates in measured]
            ratios = [rate / base for rate, base in zip(rates, bare, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"{variant:18} {statistics.median(rates):10.0f} {middle:6.3f}"
                f"   {low:.3f} to {high:.3f}"
            )


if __name__ == "__main__":
    main()
