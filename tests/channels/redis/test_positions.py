"""Where channels stand in a Redis that is away, that loses data, or that is another one."""

import asyncio
import time

import pytest

from pyramid_asgi_consumers.channels import Gap
from pyramid_asgi_consumers.channels.positions import make_id, position_of
from pyramid_asgi_consumers.channels.redis import RedisBackend
from pyramid_asgi_consumers.channels.redis.beginnings import holds, is_beginning
from pyramid_asgi_consumers.channels.redis.entries import parse_beginning
from pyramid_asgi_consumers.exceptions import ChannelsError
from tests.support.channels import connected, data, published, take, until


async def after(channels, since, name="a"):
    """The data of what follows that place, and "gap" for a gap, until "end" is published."""
    async with channels.subscribe(name, since=since) as events:
        end = await channels.publish(name, "end")
        found = []
        while events.positions[name] != end:
            (item,) = await take(events, 1)
            found.append("gap" if isinstance(item, Gap) else item.data)
        return found[:-1]


# What an error says.


async def test_where_a_channel_stands_is_unknown_where_redis_is_away(server):
    async with connected(server.url, timeout=0.3) as channels:
        await channels.publish("a", 1)
        await asyncio.to_thread(channels.backend.position_now, "a")
        server.pause()
        begun = time.monotonic()
        for ask in "position", "present":
            for awaited in (
                getattr(channels, ask)("a"),
                asyncio.to_thread(getattr(channels.backend, f"{ask}_now"), "a"),
            ):
                with pytest.raises(ChannelsError, match="'a' .*is unknown: ") as raised:
                    await awaited
                assert "published" not in str(raised.value)
        assert time.monotonic() - begun < 5
        server.resume()
        server.stop(keep=False)
        for ask in "position", "present":
            with pytest.raises(ChannelsError, match="'a' .*is unknown: Redis cannot be reached"):
                await asyncio.to_thread(getattr(channels.backend, f"{ask}_now"), "a")


async def test_what_is_no_channel_stands_nowhere(server):
    async with connected(server.url) as channels:
        server.client.set("asgi:stream:a", "foreign")
        with pytest.raises(ChannelsError, match="Where 'a' stands is unknown: .*WRONGTYPE"):
            await channels.position("a")
        async with channels.subscribe("a", "b") as events:
            assert list(events.positions) == ["b"]


async def test_what_interrupts_a_publish_sees_where_a_channel_stands(server):
    class Interrupted(RedisBackend):
        def _published(self, channel, reply):
            seen.append((self.position_now("a"), self.present_now("a")))
            return super()._published(channel, reply)

    seen = []
    backend = Interrupted(server.url)
    results = await asyncio.to_thread(published, backend, ("a", 1), ("a", 2))
    first, second = seen
    assert first[0] in results and second == (results[1], [])
    backend.blocking.close_idle()


# Where nothing is stored.


async def test_a_channel_without_events_stands_where_it_stood(server):
    async with connected(server.url, history=10) as channels:
        places = [await channels.position("a") for _ in range(3)]
        assert places == sorted(places)
        for place in places:
            assert is_beginning(position_of(place))
        first = await channels.publish("a", 1)
        assert places[-1] < first
        await channels.publish("a", 2)
        assert await after(channels, places[0]) == [1, 2]


async def test_what_a_restart_lost_is_a_gap_where_nothing_was_stored(server):
    async with connected(server.url, history=10) as channels:
        place = await channels.position("a")
        await channels.publish("a", "lost")
        server.stop(keep=False)
        server.start()
        async with channels.subscribe("a", since=place) as events:
            assert await take(events, 1) == [Gap("a", None)]
            assert is_beginning(position_of(events.positions["a"]))
            later = events.positions["a"]
        assert await after(channels, later) == []
        assert await after(channels, place) == ["gap", "end"]


async def test_what_a_restart_kept_follows_where_nothing_was_stored(server):
    async with connected(server.url, history=10) as channels:
        place = await channels.position("a")
        await channels.publish("a", 1)
        server.stop(keep=True)
        server.start()
        await channels.publish("a", 2)
        assert await after(channels, place) == [1, 2]


async def test_what_was_deleted_is_a_gap_for_who_has_seen_an_event(server):
    async with connected(server.url, history=10) as channels:
        seen = await channels.publish("a", 1)
        server.client.flushall()
        place = await channels.position("a")
        assert seen < place
        assert await after(channels, seen) == ["gap"]
        assert await after(channels, place) == ["end"]


async def test_a_channel_stands_at_the_new_master_where_it_stood(server, other, forwarder):
    other.client.replicaof("127.0.0.1", server.port)
    await until(lambda: other.client.info("replication")["master_link_status"] == "up")
    async with connected(forwarder.url, history=10) as channels:
        empty, lost = await channels.position("a"), await channels.position("b")
        newest = await channels.publish("a", 1)
        await until(lambda: other.client.xlen("asgi:stream:a") == 1)
        # The place of a channel is told by a replica, too.
        async with connected(other.url) as replica:
            assert await replica.position("a") == newest
        other.client.replicaof("NO", "ONE")
        server.client.xadd("asgi:stream:b", {"lost": "in the failover"})
        server.client.replicaof("127.0.0.1", other.port)
        forwarder.port = other.port
        # New connections lead to the new master.
        await channels.backend.aclose()
        assert await channels.position("a") == newest
        assert await after(channels, newest) == []
        assert await after(channels, empty) == [1, "end"]
        assert await after(channels, lost, "b") == ["gap"]


async def test_a_subscriber_that_enters_in_an_outage_learns_later_where_it_begins(server):
    async with connected(server.url, timeout=0.3, history=10) as channels:
        newest = await channels.publish("a", 1)
        async with channels.subscribe("b"):
            server.stop()
            hub = channels.backend._loops[asyncio.get_running_loop()].hub
            await until(lambda: hub._outage is not None)
            async with channels.subscribe("a", "c", since={"c": newest}) as events:
                assert events.positions == {"c": newest}
                server.start()
                await until(lambda: "a" in events.positions)
                assert {item.channel for item in await take(events, 2)} == {"a", "c"}
                assert events.positions["a"] == newest
                published(channels.backend, ("a", 2))
                assert await data(events, 1) == [2]


# Beginnings.


def test_a_beginning_is_just_before_its_time_and_above_all_numbers():
    place = parse_beginning(b"1700000000000000 ffffffff")
    assert place[0] == 1700000000000000 - 1
    assert is_beginning(place) and not is_beginning((1, 10**14))
    assert position_of(make_id(place)) == place
    assert parse_beginning(b"") is None


@pytest.mark.parametrize(
    "later, word, held",
    [
        (0, b"abc", True),
        (9_900_000, b"abc", True),
        (9_999_999, b"abc", False),
        (-1, b"abc", False),
        (5, b"abd", False),
    ],
)
def test_a_beginning_holds_within_a_life_until_what_came_may_have_expired(later, word, held):
    begun = parse_beginning(b"1700000000000000 abc")
    until = parse_beginning(b"%d %s" % (1700000000000000 + later, word))
    assert holds(begun, until, 10) is held
