"""The connection of subscribers: what arrives on it, and when it is given up."""

import asyncio

import pytest

from pyramid_asgi_consumers.channels.events import encode
from pyramid_asgi_consumers.channels.redis import session
from pyramid_asgi_consumers.exceptions import PublishRefused
from tests.channels.redis.doubles import AWAY, REPLICA, Commands, Connection
from tests.channels.redis.subscribers import live_feed, lone_session
from tests.support.channels import (
    connected,
    logged,
    numbers_of,
    outages,
    store,
    take,
    the_loop,
    until,
)


@pytest.mark.parametrize("presence", [None, "ann"])
async def test_a_silent_connection_is_given_up(presence, server, monkeypatch, caplog):
    monkeypatch.setattr(session, "BEAT", 0.2)
    async with connected(server.url, timeout=0.5, history=10) as channels:
        async with channels.subscribe("a", presence=presence) as events:
            await asyncio.sleep(0.5)
            assert outages(caplog) == (0, 0)
            server.pause()
            await until(lambda: outages(caplog) == (1, 0))
            server.resume()
            await until(lambda: outages(caplog) == (1, 1))
            await channels.publish("a", 1)
            assert (await take(events, 1))[0].data == 1


async def test_a_message_on_a_channel_that_was_just_left_is_nobodys(server):
    async with connected(server.url) as channels, channels.subscribe("a") as events:
        async with channels.subscribe("b"):
            hub = the_loop(channels).hub
        hub._session._receive(b"asgi:0:b", b"1-1 j1")
        await channels.publish("a", 1)
        assert (await take(events, 1))[0].data == 1


async def test_an_error_that_nobody_expects_is_logged_and_survived(server, monkeypatch, caplog):
    async with connected(server.url, history=10) as channels, channels.subscribe("a") as events:
        receive = session.Session._receive

        def fail(served, channel, message):
            monkeypatch.setattr(session.Session, "_receive", receive)
            raise LookupError("a defect")

        monkeypatch.setattr(session.Session, "_receive", fail)
        await channels.publish("a", 1)
        assert (await take(events, 1))[0].data == 1
        (record,) = logged(caplog, "out of touch")
        assert record.exc_info[0] is LookupError


async def test_a_burst_leaves_a_quick_subscriber_its_turn(server):
    async with connected(server.url) as channels, channels.subscribe("a", max_queue=1) as events:
        messages = [("a", encode(number)) for number in range(200)]
        publishing = asyncio.ensure_future(
            asyncio.to_thread(channels.backend.publish_many, messages)
        )
        assert [event.data for event in await take(events, 200)] == list(range(200))
        await publishing


async def test_only_the_last_of_several_confirmations_counts(server, monkeypatch):
    confirm = session.Session._confirm
    wanted = []

    def count(served, redis_channel):
        confirm(served, redis_channel)
        wanted.append(len(served.reader._first))

    async with connected(server.url) as channels, channels.subscribe("other"):
        monkeypatch.setattr(session.Session, "_confirm", count)
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


async def test_a_long_live_event_is_a_sign_of_life_all_along(
    server, forwarder, monkeypatch, caplog
):
    monkeypatch.setattr(session, "BEAT", 0.3)
    async with connected(forwarder.url, timeout=0.5) as channels, channels.subscribe("a") as events:
        forwarder.pace = 600
        await asyncio.to_thread(store, server.url, "a", [1], size=80_000)
        assert await numbers_of(events, 1) == [1]
    assert outages(caplog) == (0, 0)


async def test_a_confirmation_of_a_channel_that_was_left_reads_nothing():
    left = lone_session({})
    left._unconfirmed[b"0:a"] = 1
    left._confirm(b"0:a")
    assert not left.reader._first
    assert not left._unconfirmed


async def test_of_several_confirmations_the_last_is_that_of_the_feed_that_is_there():
    feed = live_feed()
    joined = lone_session({b"0:a": feed})
    joined._unconfirmed[b"0:a"] = 2
    joined._confirm(b"0:a")
    assert not feed.confirmed
    joined._confirm(b"0:a")
    assert feed.confirmed


async def test_a_message_of_a_channel_that_was_left_is_nobodys():
    left = lone_session({})
    left._receive(b"0:a", b"1-2 j2")
    assert not left._feeds


async def test_a_heartbeat_that_is_refused_or_not_answered_is_the_end(monkeypatch):
    monkeypatch.setattr(session, "BEAT", 0.001)
    beating = lone_session({})
    with pytest.raises(TimeoutError, match="no sign of life"):
        await beating._heartbeat(Connection())
    assert ("PING",) in beating._unsent
    beating = lone_session({}, Commands(REPLICA))
    beating._presence.enter("a", b"ann")
    with pytest.raises(PublishRefused, match="read only"):
        await beating._heartbeat(Connection())


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([AWAY, (b"slave", b"one"), AWAY, (b"slave", b"two")], "slave now, in life b'two'"),
        ([(b"master", b"one"), AWAY, (b"slave", b"one")], "slave now, in life b'one'"),
        ([AWAY, REPLICA], "read only"),
    ],
)
async def test_a_server_that_is_another_one_meanwhile_is_left(answers, error):
    watching = lone_session({}, Commands(*answers))
    watching.reader.life = b"one"
    with pytest.raises((ConnectionError, PublishRefused), match=error):
        await watching._watch_role()
    assert watching._commands.answers == []
