"""How many messages per second are echoed: bare ASGI, WebSocket, Starlette.

    python benchmarks/websocket.py [--ws websockets-sansio] [--rounds 15] [--connections 16]

Starts Uvicorn with one application for all, and measures them in turns: each connection sends a
message and waits for its echo. Prints the median of the messages per second of each, and its ratios
to the bare application in the same round: median, smallest and greatest. Once by the clock, which
whatever else the machine does disturbs, and once by the processor time of the server (Linux).
"""

import argparse
import asyncio
import os
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

VARIANTS = ("bare", "consumer", "websocket", "starlette")


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
        ours = config.make_asgi_app()
    starlette = Starlette(routes=[WebSocketRoute("/starlette", starlette_echo)])

    async def app(scope, receive, send):
        serve = {"/bare": echo, "/starlette": starlette}.get(scope.get("path"), ours)
        await serve(scope, receive, send)

    return app


# How it is measured.


class Client(asyncio.Protocol):
    """Sends a message, waits for its echo, sends the next."""

    def __init__(self, path):
        self.path = path
        self.opened = asyncio.get_running_loop().create_future()
        self.received = bytearray()
        self.echoes = 0

    def connection_made(self, transport):
        self.transport = transport
        transport.write(
            f"GET {self.path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    def data_received(self, data):
        self.received += data
        if not self.opened.done():
            if b"\r\n\r\n" not in self.received:
                return
            head, _, self.received = self.received.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101"):
                raise SystemExit(f"{self.path}: {head.decode()}")
            self.opened.set_result(None)
            self.transport.write(REQUEST)
        elif len(self.received) >= len(ECHO):
            if self.received != ECHO:
                raise SystemExit(f"{self.path}: not an echo: {bytes(self.received)!r}")
            self.received.clear()
            self.echoes += 1
            self.transport.write(REQUEST)


async def measure(server, port, variant, connections, seconds):
    """Return echoes per second, by the clock and by the server's processor time."""
    loop = asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Client(f"/{variant}"), HOST, port)
        clients.append(client)
    await asyncio.gather(*(client.opened for client in clients))
    # What happens at the beginning, such as a first look ahead, is not the question.
    await asyncio.sleep(0.1)
    before = sum(client.echoes for client in clients)
    start, busy = time.perf_counter(), processor_time(server)
    await asyncio.sleep(seconds)
    echoes = sum(client.echoes for client in clients) - before
    elapsed, busy = time.perf_counter() - start, processor_time(server) - busy
    for client in clients:
        client.transport.abort()
    return echoes / elapsed, echoes / busy


def processor_time(server):
    """Return the seconds for which the server's main thread has run."""
    return int(Path(f"/proc/{server.pid}/schedstat").read_text().split()[0]) / 1e9


def start_server(port, ws):
    command = (
        f"{sys.executable} -m uvicorn --factory --port {port} --ws {ws} --no-access-log"
        " --log-level warning benchmarks.websocket:make_app"
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
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="per variant and round")
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    server = start_server(port, options.ws)
    figures = {variant: [] for variant in VARIANTS}
    try:
        for number in range(options.rounds):
            # Each goes first in its turn.
            turn = number % len(VARIANTS)
            for variant in VARIANTS[turn:] + VARIANTS[:turn]:
                measured = measure(server, port, variant, options.connections, options.seconds)
                figures[variant].append(asyncio.run(measured))
    finally:
        server.terminate()
        server.wait(20)
    print(f"Uvicorn --ws {options.ws}, {options.connections} connections")
    for kind, by in enumerate(("by the clock", "by processor time")):
        print(f"{by:18} {'per second':>10} {'ratio':>6}  smallest  greatest")
        bare = [rates[kind] for rates in figures["bare"]]
        for variant, measured in figures.items():
            rates = [rates[kind] for rates in measured]
            ratios = [rate / base for rate, base in zip(rates, bare, strict=True)]
            print(
                f"{variant:18} {statistics.median(rates):10.0f} {statistics.median(ratios):6.3f}"
                f"  {min(ratios):8.3f}  {max(ratios):8.3f}"
            )


if __name__ == "__main__":
    main()
