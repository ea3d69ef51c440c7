"""How long stored events take to subscribers that come late, or come back.

First to subscribers of one channel that come with an old ``since``, then to many channels after a
cut; and how long a bystander's publish takes meanwhile.
"""

import asyncio
import time

from benchmarks.command import main
from benchmarks.support import Failure, Measured, Table, Variant, redis_server
from pyramid_asgi_consumers.channels import Channels, Event
from pyramid_asgi_consumers.channels.events import encode
from pyramid_asgi_consumers.channels.redis import RedisBackend
from pyramid_asgi_consumers.channels.redis.connections import make_pool

STORED = 1000
TEXT = "x" * 198
PAYLOAD = encode(TEXT)


class Bystander:
    """Publishes on another channel, and notes how long that takes."""

    def __init__(self, url):
        self._channels = Channels(RedisBackend(url))

    async def measured(self, receivers):
        """How long they take, and the publish that took longest meanwhile."""
        waits = []
        publishing = asyncio.ensure_future(self._publish(waits))
        begin = time.perf_counter()
        wrong = sum(await asyncio.gather(*receivers))
        seconds = time.perf_counter() - begin
        publishing.cancel()
        await asyncio.wait([publishing])
        await self._channels.backend.aclose()
        return Measured((seconds, max(waits)), wrong)

    async def _publish(self, waits):
        while True:
            begin = time.perf_counter()
            await self._channels.publish("bystander", 1)
            waits.append(time.perf_counter() - begin)
            await asyncio.sleep(0.01)


async def receive(subscription, count):
    """Return how many of so many events are wrong."""
    wrong = 0
    for _ in range(count):
        item = await anext(subscription)
        wrong += not isinstance(item, Event) or item.data != TEXT
    return wrong


def publish(backend, names):
    for name in names:
        for result in backend.publish_many([(name, PAYLOAD)] * STORED):
            if not isinstance(result, str):
                raise Failure(f"not published: {result!r}")


async def late(url, subscribers):
    """To subscribers that come with an old ``since``."""
    backend = RedisBackend(url, history=STORED)
    channels = Channels(backend)
    since = await channels.publish("room", TEXT)
    publish(backend, ["room"])

    async def join():
        async with channels.subscribe("room", since=since) as subscription:
            return await receive(subscription, STORED)

    measured = await Bystander(url).measured([join() for _ in range(subscribers)])
    await backend.aclose()
    return measured


async def cut(url, number):
    """To channels that each miss events in a cut."""
    backend = RedisBackend(url, history=STORED)
    channels = Channels(backend)
    names = [f"channel {each}" for each in range(number)]
    subscriptions = [channels.subscribe(name) for name in names]
    await asyncio.gather(*(subscription.__aenter__() for subscription in subscriptions))
    await asyncio.gather(*(channels.publish(name, TEXT) for name in names))
    await asyncio.gather(*(receive(subscription, 1) for subscription in subscriptions))
    # As if nobody could connect for as long as that is published.
    (loop,) = backend._loops.values()
    connections = loop.connections
    connections.make = make_pool("redis://127.0.0.1:1/0", 5.0).make_connection
    server = backend.blocking.pool.get_connection()
    server.send_command("CLIENT", "KILL", "TYPE", "pubsub")
    server.read_response()
    backend.blocking.pool.release(server)
    await asyncio.to_thread(publish, backend, names)
    del connections.make
    measured = await Bystander(url).measured(
        [receive(subscription, STORED) for subscription in subscriptions]
    )
    await asyncio.gather(*(subscription.__aexit__() for subscription in subscriptions))
    await backend.aclose()
    return measured


class CatchUp(Table):
    name = "catch-up"
    title = "1,000 stored events for each who missed them"
    units = ("s", "s of a publish meanwhile at most")
    less_is_better = True
    pinned = False
    reference = "one subscriber"
    rounds = 3
    sizes = {"subscribers": 1000, "channels": 1000}
    quick_sizes = {"subscribers": 300, "channels": 50}
    variants = dict.fromkeys(
        ("one subscriber", "many subscribers", "many channels after a cut"),
        Variant(needs=("redis-server",)),
    )

    def measure(self, variant, ground, size, seconds):
        # Each has a Redis of its own: what was stored before is none of its.
        with redis_server() as url:
            if variant == "one subscriber":
                running = late(url, 1)
            elif variant == "many subscribers":
                running = late(url, size["subscribers"])
            else:
                running = cut(url, size["channels"])
            return asyncio.run(asyncio.wait_for(running, 300))


TABLES = [CatchUp()]

if __name__ == "__main__":
    main(__doc__, TABLES)
