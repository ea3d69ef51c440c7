"""What it costs to import a framework and to make an application, each in a process of its own.

All but Pyramid's alone and ``ours`` have one websocket, and channels where the framework has them.
The time is all that the process has had, the interpreter's start included.
"""

import contextlib
import os
import subprocess
import sys
import tempfile

from benchmarks.command import main
from benchmarks.support import ROOT, Failure, Measured, Table, Variant

PYRAMID = """
from pyramid.config import Configurator

Configurator().make_wsgi_app()
"""

OURS = """
from pyramid.config import Configurator

config = Configurator()
config.include("pyramid_asgi_consumers")
config.make_asgi_app()
"""

WEBSOCKET = """
from pyramid.config import Configurator

async def room(websocket):
    await websocket.accept()

config = Configurator(settings={"asgi.channels": "memory://"})
config.include("pyramid_asgi_consumers")
config.add_websocket("/ws", room)
config.make_asgi_app()
"""

STARLETTE = """
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

async def room(websocket):
    await websocket.accept()

Starlette(routes=[WebSocketRoute("/ws", room)])
"""

CHANNELS = """
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="benchmarks",
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

websockets = URLRouter([path("ws", AsyncWebsocketConsumer.as_asgi())])
ProtocolTypeRouter({"http": get_asgi_application(), "websocket": websockets})
"""

LITESTAR = """
from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend

@websocket("/ws")
async def room(socket: WebSocket) -> None:
    await socket.accept()

Litestar([room], plugins=[ChannelsPlugin(MemoryChannelsBackend(), channels=["news"])])
"""

#: What the process tells in the end: seconds of processor time, and pages in memory.
TOLD = """
import time

print(time.process_time(), open("/proc/self/statm").read().split()[1])
"""


class Imports(Table):
    name = "imports"
    title = "Importing, and making an application"
    units = ("ms of processor time", "MiB")
    less_is_better = True
    reference = "pyramid"
    codes = {
        "pyramid": PYRAMID,
        "ours": OURS,
        "ours, a websocket": WEBSOCKET,
        "starlette": STARLETTE,
        "channels": CHANNELS,
        "litestar": LITESTAR,
    }
    variants = dict.fromkeys(codes, Variant()) | {
        "starlette": Variant(needs=("starlette",)),
        "channels": Variant(needs=("channels", "django")),
        "litestar": Variant(needs=("litestar",)),
    }

    @contextlib.contextmanager
    def prepared(self, variants, size):
        with tempfile.TemporaryDirectory() as folder:
            # What all find compiled, whatever has run on this machine before.
            environ = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
            environ.pop("PYTHONDONTWRITEBYTECODE", None)
            for variant in variants:
                self.measure(variant, environ, size, 0)
            yield environ

    def measure(self, variant, ground, size, seconds):
        ran = subprocess.run(
            [sys.executable, "-c", self.codes[variant] + TOLD],
            cwd=ROOT,
            env=ground,
            stdout=subprocess.PIPE,
            text=True,
        )
        if ran.returncode:
            raise Failure(f"{variant} ends with status {ran.returncode}")
        took, pages = ran.stdout.split()
        memory = int(pages) * os.sysconf("SC_PAGE_SIZE")
        return Measured((float(took) * 1000, memory / 2**20))


TABLES = [Imports()]

if __name__ == "__main__":
    main(__doc__, TABLES)
