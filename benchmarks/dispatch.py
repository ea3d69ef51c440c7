"""What it costs to find a consumer among few and among many, and a route among as many in Pyramid.

The patterns differ in a literal segment, as those of rooms and tenants do. The paths are drawn at
random, so that what a look-up needs is seldom in the processor's caches, or are one path, again and
again.
"""

import random
import time

from pyramid.request import Request
from pyramid.urldispatch import RoutesMapper

from benchmarks.command import main
from benchmarks.support import Measured, Table, Variant
from pyramid_asgi_consumers.mapper import Consumer, ConsumerMapper

FEW = 10
LOOKUPS = 20_000
# Pyramid asks its routes one after the other.
PYRAMID_LOOKUPS = 20


async def app(scope, receive, send):
    """What every consumer is."""


def consumers(pattern, number):
    mapper = ConsumerMapper()
    for each in range(number):
        mapper.add(Consumer(pattern % each, "websocket", app, "app"))
    return lambda path: mapper("websocket", path)


def routes(pattern, number):
    mapper = RoutesMapper()
    for each in range(number):
        mapper.connect(pattern % each, pattern % each)
    return lambda path: mapper(Request({"PATH_INFO": path}))


class Dispatch(Table):
    units = ("µs/look-up",)
    reference = "one of few"
    less_is_better = True
    rounds = 25
    quick_rounds = 3
    sizes = {"consumers": 10_000}
    variants = {
        "one of few": Variant(),
        "one of many": Variant(),
        "one of many, one path": Variant(),
        "a route of few": Variant(),
        "a route of many": Variant(),
    }

    def __init__(self, name, pattern, path):
        self.name = name
        self.title = f"{pattern} among 10 consumers and among many"
        self._pattern, self._path = pattern, path
        self._finders = {}

    def measure(self, variant, ground, size, seconds):
        number = FEW if variant.endswith("few") else size["consumers"]
        make = routes if variant.startswith("a route") else consumers
        lookups = PYRAMID_LOOKUPS if make is routes else LOOKUPS
        if (make, number) not in self._finders:
            self._finders[make, number] = make(self._pattern, number)
        find = self._finders[make, number]
        if variant.endswith("one path"):
            drawn = [number // 2] * lookups
        else:
            drawn = [random.randrange(number) for _ in range(lookups)]
        paths = [self._path % each for each in drawn]
        start = time.perf_counter()
        for path in paths:
            find(path)
        elapsed = time.perf_counter() - start
        found = find(paths[0])
        pattern = found["route"].pattern if make is routes else found[0].path
        wrong = pattern != self._pattern % drawn[0]
        return Measured((elapsed / lookups * 1e6,), int(wrong))


TABLES = [
    Dispatch("dispatch", "/room%d", "/room%d"),
    Dispatch("dispatch-name", "/room%d/{name}", "/room%d/lobby"),
    Dispatch("dispatch-tenant", "/tenant/t%d/{x}/feed", "/tenant/t%d/7/feed"),
]

if __name__ == "__main__":
    main(__doc__, TABLES)
