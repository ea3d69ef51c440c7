"""What it costs to find a consumer among few and among many, and a route among as many in Pyramid.

    python benchmarks/dispatch.py [--consumers 10000] [--rounds 25]

The patterns differ in a literal segment, as those of rooms and tenants do. The paths are drawn at
random, so that what a look-up needs is seldom in the processor's caches, or are one path, again and
again. Few and many are measured in turns. Prints the median of the microseconds per look-up, and of
the rounds' ratios of many to few.
"""

import argparse
import random
import statistics
import time

from pyramid.request import Request
from pyramid.urldispatch import RoutesMapper

from pyramid_asgi_consumers.mapper import Consumer, ConsumerMapper

FEW = 10
LOOKUPS = 20_000
# Pyramid asks its routes one after the other.
PYRAMID_LOOKUPS = 20

PATTERNS = {
    "/room%d": "/room%d",
    "/room%d/{name}": "/room%d/lobby",
    "/tenant/t%d/{x}/feed": "/tenant/t%d/7/feed",
}


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


def seconds(find, paths):
    start = time.perf_counter()
    for path in paths:
        find(path)
    return (time.perf_counter() - start) / len(paths)


def measure(name, make, pattern, draw, number, lookups, rounds):
    finders = {size: make(pattern, size) for size in (FEW, number)}
    times = {FEW: [], number: []}
    for _ in range(rounds):
        for size, find in finders.items():
            times[size].append(seconds(find, [draw(size) for _ in range(lookups)]))
    few, many = (statistics.median(each) * 1e6 for each in times.values())
    ratio = statistics.median(m / f for f, m in zip(*times.values(), strict=True))
    print(f"{name:40}{few:10.2f}{many:12.2f}{ratio:10.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--consumers", type=int, default=10_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    print(f"{'':40}{FEW:10}{args.consumers:12}{'ratio':>10}")
    for pattern, path in PATTERNS.items():

        def at_random(size, path=path):
            return path % random.randrange(size)

        def one(size, path=path):
            return path % (size // 2)

        for kind, draw in (("random paths", at_random), ("one path", one)):
            measure(
                f"{pattern}, {kind}", consumers, pattern, draw, args.consumers, LOOKUPS, args.rounds
            )
        measure(
            f"{pattern}, Pyramid's routes",
            routes,
            pattern,
            at_random,
            args.consumers,
            PYRAMID_LOOKUPS,
            args.rounds,
        )


if __name__ == "__main__":
    main()
