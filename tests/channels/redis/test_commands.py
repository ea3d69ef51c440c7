"""Scripts of many callers over one connection."""

import asyncio

from pyramid_asgi_consumers.channels.redis import RedisBackend, commands, connections, scripts
from pyramid_asgi_consumers.channels.redis.scripts import LEAVE
from pyramid_asgi_consumers.exceptions import PublishRefused
from tests.channels.redis.doubles import Pool
from tests.support.channels import SECONDS, connected, the_loop, until


async def test_commands_that_wait_are_given_up_at_the_end(server):
    backend = RedisBackend(server.url, timeout=2.0)
    kept = connections.Connections(connections.make_pool(server.url, 2.0), 2.0)
    running = commands.Commands(kept, backend.timeout)
    server.pause()
    try:
        first = running.submit(scripts.LEAVE, b"a", b"b")
        await until(lambda: not running._waiting)
        second = running.submit(scripts.LEAVE, b"a", b"c")
        await running.aclose()
    finally:
        server.resume()
    assert isinstance(first.future.exception(), PublishRefused)
    assert isinstance(second.future.exception(), PublishRefused)
    await running.aclose()
    await kept.aclose()
    await connections.Connections(connections.make_pool(server.url, 2.0), 2.0).aclose()


async def test_what_is_given_up_keeps_no_memory(server):
    async with connected(server.url, timeout=0.3, history=1000) as channels:
        async with channels.subscribe("a", presence="ann"), channels.subscribe("a"):
            loop = the_loop(channels)
            server.pause()
            publishing = [asyncio.ensure_future(channels.publish("a", n)) for n in range(600)]
            await asyncio.sleep(0)
            publishing[-1].cancel()
            await asyncio.wait(publishing)
            assert not loop.commands._waiting
        # Who left is not there for whoever hears of it later, either.
        assert not loop.commands._waiting
        server.resume()


async def test_commands_that_wait_behind_a_batch_are_given_up_at_the_end(monkeypatch):
    monkeypatch.setattr(commands, "BATCH", 1)
    asked = asyncio.Event()

    async def get():
        asked.set()
        await asyncio.Event().wait()

    running = commands.Commands(connections.Connections(Pool(get), SECONDS), SECONDS)
    two = [running.submit(LEAVE) for _ in "ab"]
    await asked.wait()
    await running.aclose()
    assert ["cannot be reached" in str(command.future.exception()) for command in two] == [True] * 2
