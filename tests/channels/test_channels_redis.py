"""The Redis backend where Redis fails, against the real server."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from redis import Redis

from pyramid_asgi_consumers.channels import Channels, Event, Gap
from pyramid_asgi_consumers.channels.base import encode
from pyramid_asgi_consumers.channels.redis import (
    RedisBackend,
    commands,
    connections,
    hub,
    pages,
    scripts,
)
from pyramid_asgi_consumers.exceptions import (
    ChannelsError,
    InvalidEvent,
    PublishRefused,
    PublishUnknown,
)
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SECONDS = 20
EVENTS = 1000


@pytest.fixture
def server(tmp_path):
    """A Redis that the test stops."""
    server = RedisServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.close()


@asynccontextmanager
async def connected(server, **options):
    backend = RedisBackend(server.url, **{"timeout": 2.0, **options})
    try:
        yield Channels(backend)
    finally:
        await backend.aclose()


async def take(events, count):
    async def taken():
        return [await events.__anext__() for _ in range(count)]

    return await asyncio.wait_for(taken(), SECONDS)


async def until(condition):
    async def wait():
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), SECONDS)


def logged(caplog, words):
    return [record for record in caplog.records if words in record.getMessage()]


def outages(caplog):
    return len(logged(caplog, "out of touch")), len(logged(caplog, "in touch with Redis again"))


async def publish_numbers(channels, fate, numbers, pause=None):
    """Publish numbers; note of each whether it was published, refused or nobody knows."""
    for number in numbers:
        try:
            await channels.publish("a", number)
            fate[number] = None
        except ChannelsError as error:
            fate[number] = type(error)
            await asyncio.sleep(0.002)
        if pause is not None:
            await pause(number)


def next_item(items, number):
    """What comes behind the last event before ``number``."""
    before = [at for at, item in enumerate(items) if isinstance(item, Event) and item.data < number]
    after = items[before[-1] + 1 if before else 0 :]
    return after[0] if after else None


def check(fate, items):
    """Every number was delivered once, is in a gap, was refused, or nobody knows."""
    delivered = [item.data for item in items if isinstance(item, Event)]
    gaps = [item.missed for item in items if isinstance(item, Gap)]
    assert sorted(set(delivered)) == delivered
    assert not [number for number in delivered if fate[number] is PublishRefused]
    lost = [n for n, end in fate.items() if end is None and n not in delivered]
    # Beyond them a gap may hold those of which nobody knows.
    most = len(lost) + sum(end is PublishUnknown for end in fate.values())
    assert None in gaps or len(lost) <= sum(gaps) <= most
    following = {number: next_item(items, number) for number in fate}
    assert all(isinstance(following[number], Gap) for number in lost)
    return lost, gaps


async def collect(events, items, last):
    while not (items and isinstance(items[-1], Event) and items[-1].data == last):
        items += await take(events, 1)


async def through_an_outage(server, channels, stop, start):
    """Publish a thousand numbers through an outage; return the fate of each and what arrived."""
    fate = {}

    async def pause(number):
        if number == 300:
            await asyncio.to_thread(stop)
        if number == 500:
            await asyncio.to_thread(start)

    async with channels.subscribe("a", max_queue=EVENTS) as events:
        numbers = range(EVENTS)
        publishing = asyncio.ensure_future(publish_numbers(channels, fate, numbers, pause))
        items = []
        await publishing
        await publish_numbers(channels, fate, ["last"])
        await collect(events, items, "last")
    assert fate.pop("last") is None
    assert items.pop().data == "last"
    assert len(fate) == EVENTS and PublishRefused in fate.values()
    return fate, items


async def test_a_restart_with_its_data_loses_nothing(server, caplog):
    async with connected(server, history=2 * EVENTS) as channels:
        fate, items = await through_an_outage(server, channels, server.stop, server.start)
        assert check(fate, items) == ([], [])
    assert outages(caplog) == (1, 1)


async def test_a_restart_with_less_history_is_a_gap_for_what_is_not_held(server, caplog):
    async with connected(server, history=5) as channels:
        fate, items = await through_an_outage(server, channels, server.stop, server.start)
        check(fate, items)
    assert outages(caplog) == (1, 1)


async def test_a_restart_without_its_data_is_a_gap(server, caplog):
    def stop():
        server.stop(keep=False)

    async with connected(server, history=2 * EVENTS) as channels:
        fate, items = await through_an_outage(server, channels, stop, server.start)
        lost, gaps = check(fate, items)
        assert gaps == [None]
    assert outages(caplog) == (1, 1)


async def test_a_server_that_is_killed_is_come_back_to(server, caplog):
    async with connected(server, history=2 * EVENTS) as channels:
        fate, items = await through_an_outage(server, channels, server.kill, server.start)
        check(fate, items)
    assert outages(caplog) == (1, 1)


async def test_numbers_that_are_given_out_again_are_seen(server, caplog):
    """The server comes back with data that is older than what subscribers have seen."""
    async with connected(server, history=100) as channels:
        async with channels.subscribe("a") as events:
            for number in range(5):
                await channels.publish("a", number)
            server.client.save()
            for number in range(5, 10):
                seen = await channels.publish("a", number)
            await take(events, 10)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            # As many as were lost, before the subscriber is back.
            await asyncio.to_thread(
                channels.backend.publish_many, [("a", encode(number)) for number in range(20, 25)]
            )
            await until(lambda: outages(caplog) == (1, 1))
            gap, *fresh = await take(events, 6)
            assert gap == Gap("a", None)
            assert [event.data for event in fresh] == [20, 21, 22, 23, 24]
        async with channels.subscribe("a", since=seen) as events:
            assert await take(events, 6) == [gap, *fresh]


async def test_a_connection_that_breaks_is_resumed_without_a_gap(server, caplog):
    async with connected(server, history=100) as channels:
        async with channels.subscribe("a", "idle", "new") as events, channels.subscribe("b"):
            await channels.publish("a", 0)
            for _ in range(3):
                server.client.client_kill_filter(_type="pubsub")
                for number in range(5):
                    await channels.publish("a", number)
                await channels.publish("new", "first")
                await until(lambda: outages(caplog)[0] == outages(caplog)[1] > 0)
                caplog.clear()
            items = await take(events, 19)
            assert all(isinstance(item, Event) for item in items)
            assert [item.data for item in items if item.channel == "a"] == [0, *range(5)] + [
                *range(5)
            ] * 2


class Refused:
    async def connect(self):
        raise ConnectionRefusedError

    async def disconnect(self, nowait):
        """It was never made."""


async def test_an_outage_may_last_for_hours(server, monkeypatch, caplog):
    monkeypatch.setattr(hub, "BACKOFF", (1e-9, 1e-9))
    refused = iter([Refused()] * 1100)
    make = RedisBackend.make_subscriber
    async with connected(server) as channels, channels.subscribe("a") as events:
        monkeypatch.setattr(
            RedisBackend, "make_subscriber", lambda backend: next(refused, None) or make(backend)
        )
        server.client.client_kill_filter(_type="pubsub")
        await until(lambda: outages(caplog) == (1, 1))
        assert next(refused, None) is None
        await channels.publish("a", 1)
        assert (await take(events, 1))[0].data == 1


async def test_what_breaks_again_and_again_is_tried_again_later(server, monkeypatch, caplog):
    monkeypatch.setattr(hub, "BACKOFF", (0.1, 1.0))
    monkeypatch.setattr(hub, "BEAT", 1e6)
    pauses = []
    monkeypatch.setattr(hub.random, "uniform", lambda least, most: pauses.append(most) or 0)
    async with connected(server) as channels, channels.subscribe("a"):
        (loop,) = channels.backend._loops.values()
        for number in range(1, 8):
            if number == 6:
                # As if it had lasted.
                loop.hub._in_touch -= 1e6
            server.client.client_kill_filter(_type="pubsub")
            await until(lambda number=number: outages(caplog) == (number, number))
    assert pauses == [0.2, 0.4, 0.8, 1.0, 1.0, 0.2, 0.4]


async def test_without_history_a_gap_counts_what_a_broken_connection_missed(server, caplog):
    async with connected(server) as channels, channels.subscribe("a") as events:
        await channels.publish("a", 0)
        await take(events, 1)
        server.client.client_kill_filter(_type="pubsub")
        await until(lambda: outages(caplog)[0] == 1)
        for number in range(3):
            await channels.publish("a", number)
        items = []
        while (
            len([item for item in items if isinstance(item, Event)])
            + sum(item.missed for item in items if isinstance(item, Gap))
            < 3
        ):
            items += await take(events, 1)


async def test_redis_may_be_down_at_the_start(server, caplog):
    server.stop()
    async with connected(server, history=10) as channels:
        with pytest.raises(PublishRefused, match="cannot be reached"):
            await channels.publish("a", 1)
        with pytest.raises(ChannelsError, match="'a' is unknown"):
            await channels.present("a")
        since = {"b": "lost"}
        async with channels.subscribe("a", "b", since=since, presence="ann") as events:
            await asyncio.to_thread(server.start)
            assert sorted(await take(events, 2), key=repr) == [Gap("a", None), Gap("b", None)]
            await channels.publish("a", 2)
            assert (await take(events, 1))[0].data == 2
            await until(lambda: server.client.zcard("asgi:present:a"))
            assert await channels.present("a") == ["ann"]
    assert outages(caplog) == (1, 1)


async def test_a_server_that_hangs_costs_a_publisher_the_timeout(server):
    async with connected(server, timeout=0.3, history=10) as channels:
        async with channels.subscribe("a") as events:
            await channels.publish("a", 0)
            await take(events, 1)
            server.pause()
            results = await asyncio.gather(
                *(channels.publish("a", number) for number in range(1, 4)), return_exceptions=True
            )
            assert {type(result) for result in results} == {PublishUnknown}
            with pytest.raises((PublishRefused, PublishUnknown)):
                await channels.publish("a", 4)
            with pytest.raises((PublishRefused, PublishUnknown)):
                await channels.publish("a", 5)
            server.resume()
            await channels.publish("a", "end")
            items = []
            await collect(events, items, "end")
            numbers = [item.data for item in items[:-1]]
            assert sorted(set(numbers)) == numbers


async def test_what_waits_behind_a_hanging_server_was_certainly_not_sent(server):
    async with connected(server, timeout=0.5, history=10) as channels:
        async with channels.subscribe("a") as events:
            await channels.publish("a", 0)
            server.pause()
            first = asyncio.ensure_future(channels.publish("a", 1))
            await asyncio.sleep(0.3)
            second = asyncio.ensure_future(channels.publish("a", 2))
            third = asyncio.ensure_future(channels.publish("a", 3))
            await asyncio.sleep(0)
            third.cancel()
            with pytest.raises(PublishUnknown, match="unknown"):
                await first
            server.resume()
            with pytest.raises(asyncio.CancelledError):
                await third
            ends = await asyncio.gather(second, return_exceptions=True)
            await channels.publish("a", "end")
            items = []
            await collect(events, items, "end")
            numbers = {item.data for item in items if isinstance(item, Event)}
            assert 3 not in numbers
            assert (2 in numbers) is isinstance(ends[0], str)


def test_a_thread_is_refused_or_left_in_doubt_within_the_timeout(server):
    backend = RedisBackend(server.url, timeout=0.3)
    messages = [("a", encode(number)) for number in range(3)]
    assert all(isinstance(result, str) for result in backend.publish_many(messages))
    server.pause()
    assert {type(result) for result in backend.publish_many(messages)} == {PublishUnknown}
    assert {type(result) for result in backend.publish_many(messages)} == {PublishRefused}
    server.resume()
    server.stop()
    assert {type(result) for result in backend.publish_many(messages)} == {PublishRefused}
    server.start()
    assert all(isinstance(result, str) for result in backend.publish_many(messages))


async def test_a_thread_publishes_no_second_copy(server):
    async with connected(server, history=EVENTS) as channels:
        backend = RedisBackend(server.url, history=EVENTS, timeout=2.0)
        fate = {}

        def publish():
            for number in range(EVENTS):
                (result,) = backend.publish_many([("a", encode(number))])
                fate[number] = None if isinstance(result, str) else type(result)
                # As slow as a thread that does something else too.
                time.sleep(0.001)

        async with channels.subscribe("a", max_queue=EVENTS) as events:
            thread = threading.Thread(target=publish)
            thread.start()
            await until(lambda: len(fate) > 200)
            await asyncio.to_thread(server.stop)
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(thread.join)
            await channels.publish("a", "last")
            items = []
            await collect(events, items, "last")
        assert check(fate, items[:-1]) == ([], [])


@pytest.mark.parametrize("presence", [None, "ann"])
async def test_a_silent_connection_is_given_up(presence, server, monkeypatch, caplog):
    monkeypatch.setattr(hub, "BEAT", 0.2)
    async with connected(server, timeout=0.5, history=10) as channels:
        async with channels.subscribe("a", presence=presence) as events:
            await asyncio.sleep(0.5)
            assert outages(caplog) == (0, 0)
            server.pause()
            await until(lambda: outages(caplog) == (1, 0))
            server.resume()
            await until(lambda: outages(caplog) == (1, 1))
            await channels.publish("a", 1)
            assert (await take(events, 1))[0].data == 1


async def test_three_connections_serve_all_subscriptions(server):
    async with connected(server) as channels:

        def connections():
            # All but the test's own.
            return len(server.client.client_list()) - 1

        async with channels.subscribe("a"):
            one = server.client.info("commandstats")
            async with channels.subscribe("a"), channels.subscribe("a"):
                two = server.client.info("commandstats")
                calls = {
                    name: two[name]["calls"] - one[name]["calls"]
                    for name in two
                    if name in one and two[name]["calls"] > one[name]["calls"]
                }
                assert not {"cmdstat_subscribe", "cmdstat_xrevrange"} & set(calls)
                async with channels.subscribe(*(f"channel {number}" for number in range(600))):
                    await channels.publish("a", 1)
                    assert connections() <= 3
            assert server.client.pubsub_numsub("asgi:0:a") == [(b"asgi:0:a", 1)]
            await until(lambda: len(server.client.pubsub_channels()) == 1)
        await until(lambda: not server.client.pubsub_channels())
        await until(lambda: connections() <= 2)


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
    async with connected(server) as channels:
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


async def test_channels_expire(server):
    async with connected(server, expiry=77) as channels:
        await channels.publish("a", 1)
        assert server.client.ttl("asgi:stream:a") == 77


async def test_what_is_not_kept_is_not_stored(server):
    async with connected(server) as channels:
        await channels.publish("a", "x" * 1000)
        ((_, entry),) = server.client.xrange("asgi:stream:a")
        assert entry[b"data"] == b""
    async with connected(server, history=3) as channels:
        for number in range(10):
            await channels.publish("a", number)
        assert server.client.xlen("asgi:stream:a") == 3


async def test_databases_do_not_mix(server):
    other = RedisBackend(server.url.replace("/0", "/1"))
    async with connected(server) as channels, channels.subscribe("a") as events:
        other.publish_many([("a", encode("other"))])
        await channels.publish("a", "own")
        assert (await take(events, 1))[0].data == "own"


async def test_an_epoch_is_later_than_that_before_whatever_the_clock_says(server):
    server.client.xadd("asgi:stream:a", {"life": "none"}, id="8000000000000000-7")
    async with connected(server, history=10) as channels, channels.subscribe("a") as events:
        await channels.publish("a", 1)
        assert (await take(events, 1))[0].id == "8000000000000001-0000000000000001"


async def test_foreign_bytes_are_logged_and_skipped(server, caplog):
    client = server.client
    async with connected(server, history=10) as channels:
        async with channels.subscribe("a") as events:
            for message in (b"", b"x", b"1-1 ", b"1-1 x", b"x jnull", b"1-1 j\xff"):
                client.publish("asgi:0:a", message)
            await channels.publish("a", 1)
            assert (await take(events, 1))[0].data == 1
            assert len(logged(caplog, "Skipped foreign bytes on b'asgi:0:a'")) == 6
        for fields in ({"x": "y"}, {"data": "j1", "before": "x"}, {"data": "x", "before": "0-0"}):
            client.xadd("asgi:stream:a", fields)
        await channels.publish("a", 2)
        async with channels.subscribe("a", since="never") as events:
            items = await take(events, 4)
            assert [item.data for item in items if isinstance(item, Event)] == [1, 2]
            assert len(logged(caplog, "Skipped a foreign entry in b'asgi:stream:a'")) == 3
        client.zadd("asgi:present:a", {b"foreign": 1e15, b"1:x": 1e15, b"1:j1": 1e15})
        assert await channels.present("a") == [1]


async def test_a_foreign_text_that_does_not_parse_is_an_error_of_who_asks_for_its_data(server):
    async with connected(server) as channels, channels.subscribe("a") as events:
        server.client.publish("asgi:0:a", b"1-1 j{")
        [event] = await take(events, 1)
        assert event.json == "{"
        with pytest.raises(InvalidEvent, match="is not JSON"):
            event.data  # noqa: B018


async def test_a_foreign_key_is_refused_at_the_publisher_and_skipped_elsewhere(server, caplog):
    for name in "asgi:stream:a", "asgi:present:a":
        server.client.set(name, "foreign")
    async with connected(server, history=10) as channels:
        async with channels.subscribe("a", "b", presence="ann", since={"a": "x"}) as events:
            with pytest.raises(PublishRefused, match="WRONGTYPE"):
                await channels.publish("a", 1)
            results = await asyncio.to_thread(
                channels.backend.publish_many, [("a", b"j1"), ("b", b"j2")]
            )
            assert isinstance(results[0], PublishRefused) and isinstance(results[1], str)
            gap, event = await take(events, 2)
            assert (gap, event.data) == (Gap("a", None), 2)
        with pytest.raises(ChannelsError, match="WRONGTYPE"):
            await channels.present("a")
    assert logged(caplog, "Skipped what is under b'asgi:stream:a'")
    assert outages(caplog) == (0, 0)


async def test_a_message_on_a_channel_that_was_just_left_is_nobodys(server):
    async with connected(server) as channels, channels.subscribe("a") as events:
        async with channels.subscribe("b"):
            hub = next(iter(channels.backend._loops.values())).hub
        hub._receive(b"asgi:0:b", b"1-1 j1")
        await channels.publish("a", 1)
        assert (await take(events, 1))[0].data == 1


async def test_an_error_that_nobody_expects_is_logged_and_survived(server, monkeypatch, caplog):
    async with connected(server, history=10) as channels, channels.subscribe("a") as events:
        receive = hub.Hub._receive

        def fail(served, channel, message):
            monkeypatch.setattr(hub.Hub, "_receive", receive)
            raise LookupError("a defect")

        monkeypatch.setattr(hub.Hub, "_receive", fail)
        await channels.publish("a", 1)
        assert (await take(events, 1))[0].data == 1
        (record,) = logged(caplog, "out of touch")
        assert record.exc_info[0] is LookupError


async def test_closing_ends_what_is_under_way(server):
    backend = RedisBackend(server.url)
    channels = Channels(backend)
    await channels.publish("a", 0)
    before = asyncio.all_tasks()
    subscription = channels.subscribe("a")
    await subscription.__aenter__()
    server.pause()
    publishing = asyncio.ensure_future(channels.publish("a", 1))
    await asyncio.sleep(0)
    await backend.aclose()
    with pytest.raises(PublishUnknown):
        await publishing
    await subscription.__aexit__(None, None, None)
    assert asyncio.all_tasks() == before


def test_what_a_loop_leaves_is_dropped_when_another_runs(server):
    backend = RedisBackend(server.url)
    for _ in range(3):
        asyncio.run(Channels(backend).publish("a", 1))
    assert len(backend._loops) == 1


@pytest.mark.parametrize(
    "url, complaint",
    [
        ("redis://localhost/zero", "database in a Redis URL is a number"),
        ("redis://localhost:port/0", "port"),
        ("redis://localhost/0?db=x", "'db'"),
        ("redis://localhost/0?max_connections=0", "max_connections is at least 1, not 0"),
        ("redis://localhost/0?socket_timeout=0.5", "socket_timeout .* asgi.channels.timeout"),
        ("redis://localhost/0?socket_connect_timeout=1", "asgi.channels.timeout"),
        ("unix:///run/redis.sock?timeout=1", "option timeout .* asgi.channels.timeout"),
        ("redis://localhost/0?retry_on_timeout=True", "retry_on_timeout .* tried once"),
        ("redis://localhost/0?retry_on_error=x", "retry_on_error .* tried once"),
        ("redis://localhost/0?parser_class=x", "the options in a Redis URL are .*'parser_class'"),
        ("redis://localhost/0?protocl=3", "the options in a Redis URL are .*'protocl'"),
        ("rediss://localhost/0?ssl_cert_reqs=x", "redis-py refuses: .*Certificate Requirements"),
        ("rediss://localhost/0?ssl_x=y", "the options in a Redis URL are .*'ssl_x'"),
        ("redis://localhost/0?ssl_cert_reqs=none", "'ssl_cert_reqs' .* needs rediss://"),
        ("redis://localhost/0?client_name=a b", "client_name .* not 'a b'"),
    ],
)
def test_a_bad_url_is_refused_by_name(url, complaint):
    with Configurator(settings={"asgi.channels": url}) as config:
        config.include("pyramid_asgi_consumers")
        with pytest.raises(ConfigurationError, match=f"(?s)asgi.channels: .*{complaint}"):
            config.commit()


async def works(url):
    """Whether publishing, subscribing and presence do what they promise."""
    backend = RedisBackend(url, timeout=2.0, history=10)
    channels = Channels(backend)
    async with channels.subscribe("\u20ac", presence="ann") as events:
        await channels.publish("\u20ac", 1)
        await asyncio.to_thread(backend.publish_many, [("\u20ac", encode(2))])
        arrived = [event.data for event in await take(events, 2)]
        present = await channels.present("\u20ac")
    await backend.aclose()
    return (arrived, present) == ([1, 2], ["ann"])


@pytest.mark.parametrize(
    "options",
    [
        "protocol=3",
        "decode_responses=True&encoding=utf-16&encoding_errors=replace",
        "health_check_interval=1&legacy_responses=False&socket_read_size=1&lib_name=x&lib_version=1",
    ],
)
async def test_options_for_an_applications_own_answers_change_nothing(options, server):
    assert await works(f"{server.url}?{options}")


async def test_a_unix_socket_does_as_well(server, tmp_path):
    server.stop()
    path = tmp_path / "redis.sock"
    server.start("--unixsocket", str(path))
    assert await works(f"unix://{path}")


async def test_options_of_the_connection_are_honoured(server):
    server.client.config_set("requirepass", "secret")
    options = "password=secret&db=1&client_name=us&socket_keepalive=yes"
    url = f"{server.url.removesuffix('/0')}?{options}"
    assert await works(url)
    backend = RedisBackend(url)
    connection = backend._pool.get_connection()
    clients = Redis.from_url(server.url, password="secret").client_list()
    assert [client["db"] for client in clients if client["name"] == "us"] == ["1"]
    backend._pool.release(connection)
    backend._pool.disconnect()


def test_threads_wait_for_their_turn_where_a_url_limits_connections(server):
    backend = RedisBackend(f"{server.url}?max_connections=1")
    results = []

    def publish():
        for _ in range(20):
            results.extend(backend.publish_many([("a", encode(1))]))

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80 and all(isinstance(result, str) for result in results)
    assert backend._pool.max_connections == 1


def test_a_thread_that_never_has_its_turn_is_certainly_refused(server):
    backend = RedisBackend(f"{server.url}?max_connections=1", timeout=0.3)
    server.pause()
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(backend.publish_many([("a", encode(1))])))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {type(result) for result in results} == {PublishRefused}
    # As if another thread published for as long.
    turns = backend._share().turns
    turn = turns.get()
    (result,) = backend.publish_many([("a", encode(1))])
    turns.put(turn)
    assert "max_connections are busy" in str(result)
    backend.timeout = 2.0
    server.resume()
    (result,) = backend.publish_many([("a", encode(1))])
    assert isinstance(result, str)
    backend._pool.disconnect()


def test_more_than_a_hundred_threads_have_a_connection_each(server):
    backend = RedisBackend(server.url)
    connections = [backend._pool.get_connection() for _ in range(101)]
    for connection in connections:
        backend._pool.release(connection)
    backend._pool.disconnect()


def test_a_missing_redis_server_is_a_failure_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    server = RedisServer(tmp_path)
    with pytest.raises(pytest.fail.Exception, match="apt-get install redis-server"):
        server.start()
    server.close()


async def test_a_burst_leaves_a_quick_subscriber_its_turn(server):
    async with connected(server) as channels, channels.subscribe("a", max_queue=1) as events:
        messages = [("a", encode(number)) for number in range(200)]
        publishing = asyncio.ensure_future(
            asyncio.to_thread(channels.backend.publish_many, messages)
        )
        assert [event.data for event in await take(events, 200)] == list(range(200))
        await publishing


# What arrives while it is being found out where a channel stands.


async def test_what_arrives_while_the_head_is_read_is_delivered_after_it(server, monkeypatch):
    page = pages.receive_page
    late = iter(["feed", "replay"])

    async with connected(server, history=10) as channels:

        async def page_late(connection):
            reply = await page(connection)
            backend = channels.backend
            await asyncio.to_thread(backend.publish_many, [("a", encode(next(late)))])
            (feed,) = next(iter(backend._loops.values())).hub.feeds.values()
            await until(lambda: feed.reading.held)
            return reply

        since = await channels.publish("a", "first")
        monkeypatch.setattr(hub, "receive_page", page_late)
        async with channels.subscribe("a") as events:
            assert (await take(events, 1))[0].data == "feed"
            async with channels.subscribe("a", since=since) as replayed:
                assert [event.data for event in await take(replayed, 2)] == ["feed", "replay"]
            assert (await take(events, 1))[0].data == "replay"


async def test_what_a_replay_was_ahead_of_is_not_repeated(server, monkeypatch):
    receive = hub.Hub._receive
    delayed = []
    async with connected(server, history=10) as channels, channels.subscribe("a") as steady:
        monkeypatch.setattr(hub.Hub, "_receive", lambda *message: delayed.append(message))
        ids = [await channels.publish("a", number) for number in range(3)]
        async with channels.subscribe("a", since=ids[0]) as events:
            await until(lambda: len(delayed) == 3)
            monkeypatch.setattr(hub.Hub, "_receive", receive)
            for message in delayed:
                receive(*message)
            await channels.publish("a", 3)
            await channels.publish("a", 4)
            assert [event.data for event in await take(events, 4)] == [1, 2, 3, 4]
            assert [event.data for event in await take(steady, 5)] == [0, 1, 2, 3, 4]


async def test_what_was_published_before_is_not_for_who_subscribes_then(server, monkeypatch):
    receive = hub.Hub._receive
    delayed = []
    async with connected(server) as channels, channels.subscribe("a"):
        monkeypatch.setattr(hub.Hub, "_receive", lambda *message: delayed.append(message))
        await channels.publish("a", "before")
        await asyncio.to_thread(channels.backend.publish_many, [("a", encode("before"))])
        async with channels.subscribe("a") as events:
            await until(lambda: len(delayed) == 2)
            monkeypatch.setattr(hub.Hub, "_receive", receive)
            for message in delayed:
                receive(*message)
            await channels.publish("a", "after")
            assert (await take(events, 1))[0].data == "after"


async def test_only_the_last_of_several_confirmations_counts(server, monkeypatch):
    confirm = hub.Hub._confirm
    wanted = []

    def count(hub, redis_channel):
        confirm(hub, redis_channel)
        wanted.append(len(hub._first))

    async with connected(server) as channels, channels.subscribe("other"):
        monkeypatch.setattr(hub.Hub, "_confirm", count)
        server.pause()
        given_up = asyncio.ensure_future(channels.subscribe("a").__aenter__())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.wait([given_up])
        subscription = channels.subscribe("a")
        entering = asyncio.ensure_future(subscription.__aenter__())
        await asyncio.sleep(0)
        server.resume()
        await entering
        await channels.publish("a", 1)
        assert (await take(subscription, 1))[0].data == 1
        await subscription.__aexit__()
    assert wanted == [0, 1]


async def test_commands_that_wait_are_given_up_at_the_end(server):
    backend = RedisBackend(server.url, timeout=2.0)
    kept = connections.Connections(backend._make_async_pool(), backend.timeout)
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
    await connections.Connections(backend._make_async_pool(), backend.timeout).aclose()
