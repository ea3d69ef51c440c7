"""Redis servers that are not the one to talk to: replicas, those that load, and locked ones."""

import asyncio

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from pyramid_asgi_consumers.channels import Event, Gap
from pyramid_asgi_consumers.channels.events import encode
from pyramid_asgi_consumers.channels.redis import connections, reader, scripts, session
from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused, PublishUnknown
from tests.support.channels import connected, logged, take, the_loop, until


async def replicate(master, replica):
    replica.client.replicaof("127.0.0.1", master.port)

    def is_level():
        info = replica.client.info("replication")
        offset = master.client.info("replication")["master_repl_offset"]
        return info["master_link_status"] == "up" and info["slave_repl_offset"] == offset

    await until(is_level)


async def fail_over(old, new, forwarder):
    """What was the master is a replica now, and goes on to answer who is connected to it."""
    new.client.replicaof("NO", "ONE")
    old.client.replicaof("127.0.0.1", new.port)
    forwarder.port = new.port


async def publish(channels, name, data):
    """Publish as soon as it is taken; return how often it was refused."""
    refused = 0
    while True:
        try:
            await channels.publish(name, data)
            return refused
        except PublishRefused:
            refused += 1


async def test_after_a_failover_everything_is_at_the_new_master(server, other, forwarder, caplog):
    await replicate(server, other)
    async with connected(forwarder.url, history=100) as channels:
        async with channels.subscribe("a", presence="ann") as events, channels.subscribe("b"):
            await channels.publish("a", 1)
            await until(lambda: other.client.xlen("asgi:stream:a") == 1)
            await fail_over(server, other, forwarder)
            assert await publish(channels, "a", 2) == 1
            items = await take(events, 2)
            assert all(isinstance(item, Event) for item in items)
            assert [item.data for item in items] == [1, 2]
            await until(lambda: other.client.pubsub_numsub("asgi:0:a")[0][1] == 1)
            await until(lambda: other.client.zcard("asgi:present:a") == 1)
            assert await channels.present("a") == ["ann"]
        assert other.client.zcard("asgi:present:a") == 0
    assert len(logged(caplog, "out of touch")) == 1
    assert not logged(caplog, "Skipped what is under")


async def test_who_only_listens_finds_the_new_master(server, other, forwarder, monkeypatch):
    monkeypatch.setattr(session, "BEAT", 0.2)
    await replicate(server, other)
    async with connected(forwarder.url, history=100) as channels, channels.subscribe("a") as events:
        await fail_over(server, other, forwarder)
        await until(lambda: other.client.pubsub_numsub("asgi:0:a")[0][1] == 1)
        async with connected(other.url, history=100) as publisher:
            await publisher.publish("a", 1)
        assert (await take(events, 1))[0].data == 1


async def test_a_presence_that_is_refused_is_entered_at_the_new_master(
    server, other, forwarder, caplog
):
    await replicate(server, other)
    async with connected(forwarder.url, history=100) as channels, channels.subscribe("a"):
        await fail_over(server, other, forwarder)
        async with channels.subscribe("a", presence="ann"):
            await until(lambda: other.client.zcard("asgi:present:a") == 1)
    assert not logged(caplog, "Skipped what is under")


async def test_threads_find_the_new_master_at_the_second_attempt(server, other, forwarder):
    await replicate(server, other)
    async with connected(forwarder.url, history=100) as channels, channels.subscribe("a"):
        backend = channels.backend

        def publish(*numbers):
            return backend.publish_many([("a", encode(number)) for number in numbers])

        # Two threads' connections are idle, both to the old master.
        connections = [
            await asyncio.to_thread(backend.blocking.pool.get_connection) for _ in range(2)
        ]
        for connection in connections:
            backend.blocking.pool.release(connection)
        await fail_over(server, other, forwarder)
        refusals = await asyncio.to_thread(publish, 1, 2)
        assert [type(refusal) for refusal in refusals] == [PublishRefused] * 2
        for number in range(3):
            assert isinstance((await asyncio.to_thread(publish, number))[0], str)
        # The event loop, which did nothing itself, is told.
        await until(lambda: other.client.pubsub_numsub("asgi:0:a")[0][1] == 1)


async def test_subscriptions_at_a_replica_are_left_there(server, other, monkeypatch, caplog):
    monkeypatch.setattr(session, "BEAT", 0.1)
    await replicate(server, other)
    async with (
        connected(other.url, history=100) as channels,
        connected(server.url, history=100) as publisher,
    ):
        async with channels.subscribe("a") as events:
            for number in range(5):
                with pytest.raises(PublishRefused, match="read only"):
                    await channels.publish("a", number)
                await publisher.publish("a", number)
                assert (await take(events, 1))[0].data == number
            assert not logged(caplog, "out of touch")
            async with channels.subscribe("a", presence="ann"):
                await until(lambda: logged(caplog, "out of touch"))


async def test_connections_to_two_servers_are_given_up(server, other, forwarder, caplog):
    """While an address moves: the subscriber is at one server, what is stored at another."""
    forwarder.ports = iter([server.port, other.port, other.port])
    async with connected(forwarder.url, history=100) as channels:
        async with channels.subscribe("a") as events:
            await until(lambda: logged(caplog, "in touch with Redis again"))
            await channels.publish("a", 1)
            gap, event = await take(events, 2)
            assert (gap, event.data) == (Gap("a", None), 1)
    assert len(logged(caplog, "out of touch")) == 1


async def test_a_master_without_replicas_is_left_and_come_back_to(server):
    async with connected(server.url, history=100) as channels:
        await channels.publish("a", 1)
        server.client.config_set("min-replicas-to-write", 1)
        with pytest.raises(PublishRefused, match="NOREPLICAS"):
            await channels.publish("a", 2)
        await until(lambda: len(server.client.client_list()) == 1)
        server.client.config_set("min-replicas-to-write", 0)
        await channels.publish("a", 3)


async def test_a_server_that_still_loads_refuses(server):
    server.client.mset({f"key {number}": number for number in range(2000)})
    await asyncio.to_thread(server.stop)
    server.launch("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
    async with connected(server.url, history=100) as channels:
        two = [("a", encode(1)), ("a", encode(2))]
        answers = []
        while "loading" not in str(answers[:1]):
            answers = await asyncio.to_thread(channels.backend.publish_many, two)
        # redis-py reads no answer behind this one.
        assert [type(answer) for answer in answers] == [PublishRefused, PublishUnknown]
        answers = await asyncio.gather(
            *(channels.publish("a", number) for number in range(3)), return_exceptions=True
        )
        assert all(isinstance(answer, PublishRefused) for answer in answers)
        assert all("loading" in str(answer) for answer in answers)
        server.client.config_set("key-load-delay", 0)
        await publish(channels, "a", 3)


async def test_a_replica_that_lost_its_master_and_says_nothing_stale_is_left(server, caplog):
    async with connected(server.url, history=100) as channels:
        since = await channels.publish("a", 1)
        await channels.publish("a", 2)
        server.client.config_set("replica-serve-stale-data", "no")
        server.client.replicaof("127.0.0.1", 1)
        connection = the_loop(channels).connections.make()
        await connection.connect()
        call = scripts.batch_of([(scripts.READ, (b"asgi:stream:a", "0-1", 1, 1))])
        await connection.send_packed_command(connection.pack_commands(call))
        with pytest.raises(ResponseError, match="Link with MASTER is down"):
            await reader._receive_page(connection)
        await connection.disconnect()
        assert connections.traffic_of(connection) == (0, 0)
        async with channels.subscribe("a", since=since) as events:
            await until(lambda: logged(caplog, "out of touch"))
            server.client.replicaof("NO", "ONE")
            assert (await take(events, 1))[0].data == 2


async def test_a_server_that_is_busy_with_a_script_is_waited_for(server, caplog):
    server.client.config_set("lua-time-limit", 10)
    endless = Redis.from_url(server.url, socket_timeout=60)
    async with connected(server.url, history=100) as channels, channels.subscribe("b"):
        since = await channels.publish("a", 1)
        await channels.publish("a", 2)
        busy = asyncio.ensure_future(asyncio.to_thread(server.client.eval, "while true do end", 0))
        refusal = None
        while refusal is None:
            try:
                await channels.publish("c", 1)
            except PublishRefused as error:
                refusal = error
        assert "BUSY" in str(refusal)
        async with channels.subscribe("a", since=since) as events:
            await until(lambda: logged(caplog, "out of touch"))
            server.client.script_kill()
            assert (await take(events, 1))[0].data == 2
        with pytest.raises(ResponseError, match="killed"):
            await busy
        endless.close()
    assert not logged(caplog, "Skipped what is under")


# Connections that are not made.


@pytest.mark.parametrize(
    "password, answer", [("", "Authentication required"), (":wrong@", "invalid username-password")]
)
async def test_who_is_not_let_in_is_certainly_refused(password, answer, server):
    server.client.config_set("requirepass", "secret")
    async with connected(server.url.replace("127", f"{password}127", 1), history=100) as channels:
        two = [("a", encode(1)), ("a", encode(2))]
        refusals = await asyncio.to_thread(channels.backend.publish_many, two)
        publishing = (channels.publish("a", number) for number in range(3))
        refusals += await asyncio.gather(*publishing, return_exceptions=True)
        for refusal in refusals:
            assert isinstance(refusal, PublishRefused)
            assert answer in str(refusal)
        with pytest.raises(ChannelsError, match=answer):
            await channels.present("a")
    async with connected(server.url.replace("127", ":secret@127", 1), history=100) as channels:
        await channels.publish("a", 1)


async def test_rights_that_are_taken_away_are_an_outage(server, monkeypatch, caplog):
    monkeypatch.setattr(session, "BEAT", 0.05)
    async with connected(server.url, history=100) as channels:
        first = await channels.publish("a", 1)
        async with channels.subscribe("a", presence="ann") as events:
            server.client.execute_command("ACL", "SETUSER", "default", "-eval", "-evalsha")
            with pytest.raises(PublishRefused, match="no permissions"):
                await channels.publish("a", 2)
            await until(lambda: logged(caplog, "out of touch"))
            async with channels.subscribe("a", since=first) as replayed:
                server.client.execute_command("ACL", "SETUSER", "default", "+eval", "+evalsha")
                await publish(channels, "a", 3)
                for subscription in events, replayed:
                    (event,) = await take(subscription, 1)
                    assert event.data == 3
                await until(lambda: logged(caplog, "in touch with Redis again"))
    assert len(logged(caplog, "out of touch")) == 1
    assert not logged(caplog, "Skipped")


async def refuses(url):
    async with connected(url, timeout=1.0, history=100) as channels:
        refusals = await asyncio.to_thread(channels.backend.publish_many, [("a", encode(1))])
        with pytest.raises(PublishRefused):
            await channels.publish("a", 1)
        return [type(refusal) for refusal in refusals] == [PublishRefused]


async def test_a_database_that_is_not_there_is_a_certain_refusal(server):
    assert await refuses(server.url.replace("/0", "/99"))


async def test_a_server_that_is_full_refuses_certainly(server):
    server.client.config_set("maxclients", 1)
    assert await refuses(server.url)


async def test_a_handshake_that_fails_is_a_certain_refusal(server):
    assert await refuses(server.url.replace("redis", "rediss", 1))


async def test_a_server_that_is_silent_from_the_start_refuses_certainly(server):
    server.pause()
    assert await refuses(server.url)
    server.resume()
