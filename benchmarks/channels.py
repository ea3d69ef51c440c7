"""Deliveries per second to many subscribers of one channel, beside Django Channels' layers.

    python -m benchmarks.channels [SUBSCRIBERS] [ROUNDS] [--cpu]

Needs ``redis-server`` and ``pip install channels channels_redis``. All contestants run in turns, in
one process, against one Redis; printed is the median of the rounds. With --cpu, seconds are those
of this process's processor time.
"""

import asyncio
import gc
import statistics
import sys
import tempfile
import time
import tracemalloc

from channels.layers import InMemoryChannelLayer
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import RedisBackend
from tests.support.redis_server import RedisServer

MESSAGE = {"type": "chat.message", "text": "x" * 100, "room": 7}
IDLE = 10_000

seconds = time.process_time if "--cpu" in sys.argv else time.perf_counter


async def deliver(events, receivers, publish):
    """Return deliveries per second; ``receivers`` are coroutines that end after ``events``."""
    tasks = [asyncio.ensure_future(receiver) for receiver in receivers]
    await asyncio.sleep(0.1)
    begin = seconds()
    for _ in range(events):
        await publish()
    await asyncio.gather(*tasks)
    return events * len(tasks) / (seconds() - begin)


async def run_queues(events, subscribers):
    queues = [asyncio.Queue() for _ in range(subscribers)]

    async def receive(queue):
        for _ in range(events):
            await queue.get()

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
            left = events
            async for event in subscription:
                left -= event.data == MESSAGE
                if not left:
                    break

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
        for _ in range(events):
            await layer.receive(name)

    receivers = [receive(name) for name in names]
    rate = await deliver(events, receivers, lambda: layer.group_send("room", MESSAGE))
    await layer.flush()
    if hasattr(layer, "close_pools"):
        await layer.close_pools()
    return rate


async def idle_bytes(backend):
    """Return the bytes that an idle subscription costs, with the task that waits for it."""
    channels = Channels(backend)

    async def wait(number):
        async with channels.subscribe("room", f"user {number}") as subscription:
            async for _ in subscription:
                raise AssertionError

    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.ensure_future(wait(number)) for number in range(IDLE)]
    await asyncio.sleep(5)
    gc.collect()
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await backend.aclose()
    return used / IDLE


def main(subscribers=1000, rounds=5):
    server = RedisServer(tempfile.mkdtemp())
    server.start()
    try:
        contestants = {
            "asyncio.Queue, bare": lambda: run_queues(100, subscribers),
            "memory": lambda: run_channels(100, subscribers, MemoryBackend()),
            "channels in memory": lambda: run_layer(
                5, subscribers, InMemoryChannelLayer(capacity=1000)
            ),
            "redis": lambda: run_channels(100, subscribers, RedisBackend(server.url)),
            "channels_redis pub/sub": lambda: run_layer(
                100, subscribers, RedisPubSubChannelLayer(hosts=[server.url])
            ),
            "channels_redis core": lambda: run_layer(
                5, subscribers, RedisChannelLayer(hosts=[server.url], capacity=1000)
            ),
        }
        rates = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, contestant in contestants.items():
                gc.collect()
                rates[name].append(asyncio.run(contestant()))
        for name, found in rates.items():
            print(
                f"{name:24} {statistics.median(found):10,.0f} deliveries/s"
                f"   {min(found):10,.0f} to {max(found):,.0f}"
            )
        for name, backend in ("memory", MemoryBackend()), ("redis", RedisBackend(server.url)):
            print(
                f"{name:24} {asyncio.run(idle_bytes(backend)):10,.0f} bytes per idle subscription"
            )
    finally:
        server.close()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:] if argument != "--cpu"))
