"""Deliveries per second to many subscribers of one channel, beside Django Channels' layers.

All are in one process, against one Redis, which a subscriber of ours and a layer's receiver read
until each has all events. A second table has the memory that an idle subscription takes.
"""

import asyncio
import contextlib
import gc
import pkgutil
import time
import tracemalloc

from benchmarks.command import main
from benchmarks.support import Measured, Table, Variant, redis_server
from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.memory import MemoryBackend

MESSAGE = {"type": "chat.message", "text": "x" * 100, "room": 7}
#: Of the layers that are slow, and of the others.
FEW, MANY = 5, 100
OURS = "pyramid_asgi_consumers.channels.redis:RedisBackend"


async def deliver(events, receivers, publish):
    """``receivers`` are coroutines that end after ``events``, and return how many were wrong."""
    tasks = [asyncio.ensure_future(receiver) for receiver in receivers]
    await asyncio.sleep(0.1)
    begin, busy = time.perf_counter(), time.process_time()
    for _ in range(events):
        await publish()
    wrong = sum(await asyncio.gather(*tasks))
    right = events * len(tasks) - wrong
    return Measured(
        (right / (time.perf_counter() - begin), right / (time.process_time() - busy)), wrong
    )


async def run_queues(events, subscribers):
    queues = [asyncio.Queue() for _ in range(subscribers)]

    async def receive(queue):
        return sum([await queue.get() != MESSAGE for _ in range(events)])

    async def publish():
        for queue in queues:
            queue.put_nowait(MESSAGE)
        await asyncio.sleep(0)

    return await deliver(events, [receive(queue) for queue in queues], publish)


async def run_channels(events, subscribers, backend):
    channels = Channels(backend)
    ready = asyncio.Semaphore(0)
    begin = asyncio.Event()

    async def receive():
        async with channels.subscribe("room") as subscription:
            ready.release()
            await begin.wait()
            wrong = 0
            for _ in range(events):
                wrong += (await anext(subscription)).data != MESSAGE
            return wrong

    receivers = [asyncio.ensure_future(receive()) for _ in range(subscribers)]
    for _ in receivers:
        await ready.acquire()
    begin.set()
    rate = await deliver(events, receivers, lambda: channels.publish("room", MESSAGE))
    await backend.aclose()
    return rate


async def run_layer(events, subscribers, layer):
    names = [await layer.new_channel() for _ in range(subscribers)]
    for name in names:
        await layer.group_add("room", name)

    async def receive(name):
        return sum([await layer.receive(name) != MESSAGE for _ in range(events)])

    receivers = [receive(name) for name in names]
    rate = await deliver(events, receivers, lambda: layer.group_send("room", MESSAGE))
    await layer.flush()
    if hasattr(layer, "close_pools"):
        await layer.close_pools()
    return rate


async def idle_bytes(backend, number):
    """Return the bytes that an idle subscription costs, with the task that waits for it."""
    channels = Channels(backend)

    ready = asyncio.Semaphore(0)

    async def wait(number):
        async with channels.subscribe("room", f"user {number}") as subscription:
            ready.release()
            async for _ in subscription:
                raise AssertionError

    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.ensure_future(wait(each)) for each in range(number)]
    for _ in tasks:
        await ready.acquire()
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await backend.aclose()
    return Measured((used / number,))


class InOneProcess(Table):
    pinned = False

    @contextlib.contextmanager
    def prepared(self, variants, size):
        if any("redis-server" in self.variants[variant].needs for variant in variants):
            with redis_server() as url:
                yield url
        else:
            yield None

    def made(self, variant, url):
        make = pkgutil.resolve_name(self.variants[variant].app)
        return make(url) if make is not MemoryBackend else make()


class Deliveries(InOneProcess):
    name = "channels"
    title = "Deliveries of 100 events to the subscribers of one channel"
    units = ("deliveries/s", "deliveries/s of processor time")
    reference = "asyncio.Queue"
    rounds = 5
    sizes = {"subscribers": 1000}
    quick_sizes = {"subscribers": 250}
    variants = {
        "asyncio.Queue": Variant(),
        "memory": Variant("pyramid_asgi_consumers.channels.memory:MemoryBackend"),
        "redis": Variant(OURS, ("redis", "redis-server")),
        "channels in memory": Variant("benchmarks.peers.layers:memory", ("channels",)),
        "channels_redis pub/sub": Variant(
            "benchmarks.peers.layers_redis:pubsub", ("channels_redis", "redis-server")
        ),
        "channels_redis core": Variant(
            "benchmarks.peers.layers_redis:core", ("channels_redis", "redis-server")
        ),
    }

    def measure(self, variant, ground, size, seconds):
        gc.collect()
        number = size["subscribers"]
        events = FEW if variant in ("channels in memory", "channels_redis core") else MANY
        if variant == "asyncio.Queue":
            running = run_queues(events, number)
        elif variant in ("memory", "redis"):
            running = run_channels(events, number, self.made(variant, ground))
        else:
            running = run_layer(events, number, self.made(variant, ground))
        return asyncio.run(asyncio.wait_for(running, 120))


class Subscriptions(InOneProcess):
    name = "subscriptions"
    title = "Memory of an idle subscription"
    units = ("bytes/subscription",)
    less_is_better = True
    reference = "memory"
    rounds = 3
    sizes = {"subscriptions": 10_000}
    quick_sizes = {"subscriptions": 1000}
    variants = {name: Deliveries.variants[name] for name in ("memory", "redis")}

    def measure(self, variant, ground, size, seconds):
        return asyncio.run(idle_bytes(self.made(variant, ground), size["subscriptions"]))


TABLES = [Deliveries(), Subscriptions()]

if __name__ == "__main__":
    main(__doc__, TABLES)
