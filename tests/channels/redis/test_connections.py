"""Connections of an event loop, and how long they are waited for."""

import asyncio

import pytest

from pyramid_asgi_consumers.channels.redis import connections
from tests.channels.redis.doubles import Pool
from tests.support.channels import SECONDS


async def test_a_connection_that_comes_with_a_cancellation_is_released(server):
    kept = connections.Connections(connections.make_pool(server.url, 2.0), 2.0)
    pool = kept._pool
    taken = []

    async def take_one():
        async with kept.take():
            taken.append(1)

    await take_one()
    for steps in range(50):
        task = asyncio.ensure_future(take_one())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert not pool._in_use_connections
    assert len(pool._available_connections) <= 2 and len(taken) > 1
    await kept.aclose()


async def test_whoever_is_cancelled_twice_has_ended_what_it_waited_for():
    ended, begun, may_end = [], asyncio.Event(), asyncio.Event()

    async def slow():
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            ended.append(1)

    waiting = asyncio.ensure_future(connections.within(SECONDS, slow()))
    await begun.wait()
    for _ in range(3):
        waiting.cancel()
        await asyncio.sleep(0)
    may_end.set()
    await asyncio.wait([waiting])
    assert waiting.cancelled() and ended == [1]


async def test_a_connection_that_came_with_a_cancellation_is_released():
    async def get():
        taking.cancel()
        return "connection"

    async def take():
        await taken_from.take().__aenter__()

    pool = Pool(get)
    taken_from = connections.Connections(pool, SECONDS)
    taking = asyncio.ensure_future(take())
    await asyncio.wait([taking])
    assert (taking.cancelled(), pool.released) == (True, ["connection"])
    await taken_from.aclose()
    assert pool.released == ["connection", "disconnected"]


async def test_a_connection_that_never_came_is_not_released():
    asked = asyncio.Event()

    async def get():
        asked.set()
        await asyncio.Event().wait()

    async def fails():
        raise ConnectionResetError

    async def take():
        await taken_from.take().__aenter__()

    pool = Pool(get)
    taken_from = connections.Connections(pool, SECONDS)
    taking = asyncio.ensure_future(take())
    await asked.wait()
    taking.cancel()
    await asyncio.wait([taking])
    assert taking.cancelled()
    pool.get_connection = fails
    with pytest.raises(ConnectionResetError):
        await take()
    assert pool.released == []
    await taken_from.aclose()
