"""How long pages take while events go to many websockets of the same process.

Ten times in a second one of the websockets says a text, which all get. Meanwhile a page is asked
for on four connections, each at once again. Ours is a view, as the page beside Starlette's loop is,
which a2wsgi serves.
"""

import contextlib
import statistics
import threading
import time

from pyramid.config import Configurator

from benchmarks.apps import add_views, hello
from benchmarks.broadcast import plain, room
from benchmarks.command import main
from benchmarks.support import (
    Audience,
    Measured,
    Table,
    Variant,
    has_frame,
    of_client,
    of_server,
    serving,
    wrk,
)

#: So many events in a second.
EVENTS = 10
#: So many connections ask for the page.
ASKING = 4


def ours():
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        add_views(config, hello)
        config.add_websocket("/ws", room)
        return config.make_asgi_app()


class FanOut(Table):
    name = "fan-out"
    title = "Pages while each of the websockets gets ten events in a second"
    units = ("ms of a page at the 99th percentile", "pages/s", "ms of an event to the last")
    less_is_better = True
    reference = "ours"
    seconds = 5
    quick_seconds = 1
    sizes = {"sockets": 500}
    variants = {
        "ours": Variant("benchmarks.fan_out:ours", ("wrk",)),
        "starlette": Variant(
            "benchmarks.peers.starlette:broadcast_beside_pages", ("wrk", "starlette", "a2wsgi")
        ),
    }

    def measure(self, variant, ground, size, seconds):
        with serving(self.variants[variant].app) as server:
            connections = list(plain(server.port, size["sockets"]))
            with contextlib.closing(Audience(connections)) as audience:
                wrk(server.port, "/hello", ASKING, 1)
                with Events(audience, connections[0]) as events:
                    answered, p99, wrong = wrk(server.port, "/hello", ASKING, seconds)
        took = statistics.median(events.took) * 1000
        return Measured((p99, answered, took), wrong + events.wrong)


class Events(threading.Thread):
    """Has one after the other published, as a context manager."""

    def __init__(self, audience, connection):
        super().__init__()
        self.audience, self.connection = audience, connection
        self.took = []
        self.wrong = 0
        self._ended = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self._ended.set()
        self.join()

    def run(self):
        begin = time.perf_counter()
        number = 0
        while not self._ended.wait(max(0, begin + number / EVENTS - time.perf_counter())):
            number += 1
            text = f"message {number:08}: " + "x" * 80
            since = time.perf_counter()
            self.connection.sendall(of_client(text))
            right = self.audience.right(has_frame, of_server(f'"{text}"').__eq__)
            self.took.append(time.perf_counter() - since)
            self.wrong += len(self.audience.connections) - right


TABLES = [FanOut()]

if __name__ == "__main__":
    main(__doc__, TABLES)
