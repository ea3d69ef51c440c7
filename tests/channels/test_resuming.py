"""Whoever comes back to where a channel stood gets each event once, whatever has happened."""

import asyncio
from bisect import bisect_right
from contextlib import AsyncExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyramid_asgi_consumers.channels import Channels, Gap
from tests.support.channels import Memory, Redis, published, take

NAMES = ("a", "b")
MANY = 1000


class Follower:
    """Subscribes to all channels, and sees that it misses nothing without being told."""

    def __init__(self, stored, subscription):
        self.subscription = subscription
        # The ids of all that was published, by channel.
        self.stored = stored
        # How many of them are behind it, None where it does not know yet.
        self.behind = {}
        self.gaps = 0

    async def __aenter__(self):
        await self.subscription.__aenter__()
        self.behind = {name: self.count(name) for name in NAMES}
        return self

    async def __aexit__(self, *exc_info):
        await self.subscription.__aexit__(*exc_info)

    def count(self, name):
        place = self.subscription.positions.get(name)
        return None if place is None else bisect_right(self.stored[name], place)

    def lacks(self):
        return any(self.behind[name] != len(self.stored[name]) for name in NAMES)

    async def take(self):
        (item,) = await take(self.subscription, 1)
        name, behind = item.channel, self.behind[item.channel]
        self.behind[name] = self.count(name)
        if isinstance(item, Gap):
            self.gaps += 1
            assert behind is None or behind < self.behind[name]
            assert item.missed is None or item.missed == self.behind[name] - behind
        else:
            assert item.id == self.stored[name][behind]
            assert self.behind[name] == behind + 1


async def walk(kind, steps, history, max_queue):
    channels = Channels(kind.make(history=history))
    stored = {name: [] for name in NAMES}
    notes = []
    followers = []

    def follow(since=None, **options):
        return Follower(stored, channels.subscribe(*NAMES, since=since, **options))

    async def note():
        notes.append({name: await channels.position(name) for name in NAMES})

    async with AsyncExitStack() as stack:
        await note()
        for step, name in steps:
            if step == "publish":
                stored[name].append(await channels.publish(name, 1))
            elif step == "publish much":
                ids = await asyncio.to_thread(published, channels.backend, *[(name, 2)] * 5)
                stored[name] += ids
            elif step == "note":
                await note()
            elif step == "follow":
                follower = follow(max_queue=max_queue)
                followers.append(await stack.enter_async_context(follower))
            elif step == "come back":
                for number, old in enumerate(followers):
                    since = old.subscription.positions
                    await old.__aexit__()
                    new = await stack.enter_async_context(follow(since, max_queue=max_queue))
                    assert new.behind == {**new.behind, **old.behind}
                    followers[number] = new
            elif step == "cut":
                kind.cut()
            else:
                for follower in followers:
                    if follower.lacks():
                        await follower.take()
        for since in notes:
            followers.append(await stack.enter_async_context(follow(since)))
        for name in NAMES:
            stored[name].append(await channels.publish(name, "last"))
        for follower in followers:
            while follower.lacks():
                await follower.take()
            assert history < MANY or max_queue < MANY or not follower.gaps
    await channels.backend.aclose()


STEPS = ("publish", "publish much", "note", "follow", "come back", "take", "take")


@pytest.mark.parametrize("history, max_queue", [(MANY, MANY), (3, MANY), (0, 2), (MANY, 2)])
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(NAMES)), min_size=8, max_size=40))
@settings(deadline=None, max_examples=30)
def test_nobody_misses_anything_without_a_gap(history, max_queue, steps):
    asyncio.run(walk(Memory(), steps, history, max_queue))


@pytest.mark.redis
@pytest.mark.parametrize("history, max_queue", [(MANY, MANY), (3, MANY), (0, 2), (MANY, 2)])
@given(
    st.lists(
        st.tuples(st.sampled_from((*STEPS, "cut")), st.sampled_from(NAMES)), min_size=8, max_size=40
    )
)
@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_nobody_misses_anything_without_a_gap_where_connections_break(
    redis_server, history, max_queue, steps
):
    asyncio.run(walk(Redis(redis_server), steps, history, max_queue))
