"""How long stored events take to subscribers that come late, or come back.

    python -m benchmarks.catch_up [CHANNELS]

Needs ``redis-server``. First to subscribers of one channel that come with an old ``since``, then to
many channels after a cut; and how long a bystander's publish takes meanwhile.
"""

import asyncio
import sys
import tempfile
import time

from pyramid_asgi_consumers.channels import Channels, Event
from pyramid_asgi_consumers.channels.events import encode
from pyramid_asgi_consumers.channels.redis import RedisBackend
from pyramid_asgi_consumers.channels.redis.connections import make_pool
from tests.support.redis_server import RedisServer

STORED = 1000
PAYLOAD = encode("x" * 198)


async def catch_up(url, channels):
    backend = RedisBackend(url, history=STORED)
    faces = Channels(backend)
    bystander = Channels(RedisBackend(url))
    waits = []

    async def stand_by():
        while True:
            begin = time.perf_counter()
            await bystander.publish("bystander", 1)
            waits.append(time.perf_counter() - begin)
            await asyncio.sleep(0.01)

    async def measure(name, receivers):
        waits.clear()
        task = asyncio.ensure_future(stand_by())
        begin = time.perf_counter()
        await asyncio.gather(*receivers)
        seconds = time.perf_counter() - begin
        task.cancel()
        print(f"{name:50} {seconds:6.2f} s, a publish {max(waits):.3f} s at most", flush=True)

    def publish(names):
        for name in names:
            for result in backend.publish_many([(name, PAYLOAD)] * STORED):
                assert isinstance(result, str)

    async def receive(subscription, count):
        got = 0
        async for item in subscription:
            assert isinstance(item, Event)
            got += 1
            if got == count:
                break

    async def join(since):
        async with faces.subscribe("room", since=since) as subscription:
            await receive(subscription, STORED)

    since = await faces.publish("room", 0)
    publish(["room"])
    for subscribers in 1, 300, 1000:
        await measure(
            f"{subscribers} subscribers of {STORED} stored events",
            [join(since) for _ in range(subscribers)],
        )

    names = [f"channel {number}" for number in range(channels)]
    subscriptions = [faces.subscribe(name) for name in names]
    await asyncio.gather(*(subscription.__aenter__() for subscription in subscriptions))
    await asyncio.gather(*(faces.publish(name, 0) for name in names))
    await asyncio.gather(*(receive(subscription, 1) for subscription in subscriptions))
    # As if nobody could connect for as long as that is published.
    (loop,) = backend._loops.values()
    connections = loop.connections
    connections.make = make_pool("redis://127.0.0.1:1/0", 5.0).make_connection
    server = backend.blocking.pool.get_connection()
    server.send_command("CLIENT", "KILL", "TYPE", "pubsub")
    server.read_response()
    backend.blocking.pool.release(server)
    begin = time.perf_counter()
    await asyncio.to_thread(publish, names)
    print(f"(published within {time.perf_counter() - begin:.0f} s)", flush=True)
    del connections.make
    await measure(
        f"{channels} channels x {STORED} events after a cut",
        [receive(subscription, STORED) for subscription in subscriptions],
    )
    await asyncio.gather(*(subscription.__aexit__() for subscription in subscriptions))
    await backend.aclose()
    await bystander.backend.aclose()


def main(channels=1000):
    server = RedisServer(tempfile.mkdtemp())
    server.start()
    try:
        asyncio.run(catch_up(server.url, channels))
    finally:
        server.close()


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
