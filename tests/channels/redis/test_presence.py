"""Members of a process that was killed."""

import signal
import subprocess
import sys

from pyramid_asgi_consumers.channels.redis.keys import Keys
from pyramid_asgi_consumers.channels.redis.presence import Presence
from tests.channels.redis.doubles import AWAY, REPLICA, Commands
from tests.support.channels import connected, until

SUBSCRIBER = """
import asyncio, sys
from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.redis import RedisBackend

async def main():
    channels = Channels(RedisBackend(sys.argv[1]))
    async with channels.subscribe("a", presence="killed") as events:
        print(await channels.present("a"), flush=True)
        await events.__anext__()

asyncio.run(main())
"""


async def test_a_process_that_is_killed_leaves_nothing(server):
    process = subprocess.Popen(
        [sys.executable, "-c", SUBSCRIBER, server.url],
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"['killed']\n"
        process.send_signal(signal.SIGKILL)
    assert 0 < server.client.ttl("asgi:present:a") <= 20
    async with connected(server.url) as channels:
        assert await channels.present("a") == ["killed"]
        # The clock moves on for the member alone.
        ((member, score),) = server.client.zrange("asgi:present:a", 0, -1, withscores=True)
        assert score - server.client.time()[0] <= 30
        server.client.zadd("asgi:present:a", {member: score - 30})
        assert await channels.present("a") == []
        async with channels.subscribe("a", presence="alive"):
            assert await channels.present("a") == ["alive"]
            assert server.client.zcard("asgi:present:a") == 1
    assert server.client.keys("asgi:present:*") == []
    await until(lambda: not server.client.pubsub_channels())


async def test_who_is_not_entered_again_is_at_the_next_heartbeat_but_at_a_replica():
    for answer, refused in [(None, None), (AWAY, None), (REPLICA, REPLICA)]:
        present = Presence(Keys("", 0), Commands(answer))
        present.enter("a", b"ann")
        assert await present.enter_again() is refused
