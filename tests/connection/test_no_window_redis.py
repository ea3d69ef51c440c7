"""What another process says over Redis, at each moment at which this one begins to listen.

As in ``test_no_window.py`` each run is made at another moment. The user leaves the table; then
another process, which has channels of its own here, publishes that he is disconnected.
"""

import threading
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.disconnects import make_word
from pyramid_asgi_consumers.channels.redis import RedisBackend, hub
from pyramid_asgi_consumers.connection import users
from pyramid_asgi_consumers.lifespan import running
from tests.support.forwarder import Forwarder
from tests.support.moments import Moments, Steps
from tests.support.threads import Held
from tests.support.window import CHECKED, ENDS, KINDS, REFUSED, Client, Policy, Site, at_each

pytestmark = pytest.mark.redis


class Elsewhere:
    """Another process, which says that somebody has left the site's table."""

    def __init__(self, server):
        self.prefix = f"{uuid4()}:"
        self.channels = Channels(RedisBackend(server.url, prefix=self.prefix))

    def site(self, url, policy=Policy):
        """The application of this process, which finds Redis under ``url``."""
        settings = {"asgi.channels": url, "asgi.channels.prefix": self.prefix}
        return Site(policy, **settings)

    def log_out(self, site, user="ann"):
        site.policy.table.discard(user)
        messages = self.channels.disconnects.messages(make_word(user, "bye"))
        (result,) = self.channels.backend.publish_many(messages)
        assert isinstance(result, str)


@pytest.fixture
def elsewhere(redis_server):
    elsewhere = Elsewhere(redis_server)
    yield elsewhere
    elsewhere.channels.backend.blocking.close_idle()


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_stays_who_is_put_out_as_a_process_begins_to_listen(elsewhere, redis_server, kind):
    site = elsewhere.site(redis_server.url)
    ends = at_each(Steps, site, kind, lambda: elsewhere.log_out(site))
    assert ENDS[kind] <= set(ends) <= {CHECKED, *ENDS[kind]}
    # There are more of them than in a handshake alone.
    assert len(ends) > 30


@pytest.mark.parametrize("kind", KINDS)
def test_nor_who_is_let_in_before_it_listens(elsewhere, redis_server, kind, monkeypatch):
    monkeypatch.setattr(users, "PATIENCE", 0)
    monkeypatch.setattr(users, "SPREAD", 0.01)
    site = elsewhere.site(redis_server.url)
    ends = at_each(Steps, site, kind, lambda: elsewhere.log_out(site))
    assert set(ends) <= {CHECKED, *ENDS[kind]}
    assert len(ends) > 15


class Watched(Forwarder):
    """Has moments before and after it hands something on, in either direction."""

    moments = None

    async def _up(self, reader, writer):
        await self._hand_on(reader, writer)

    async def _down(self, reader, writer):
        await self._hand_on(reader, writer)

    async def _hand_on(self, reader, writer):
        while data := await reader.read(65536):
            self._come()
            writer.write(data)
            await writer.drain()
            self._come()

    def _come(self):
        if self.moments is not None:
            self.moments.come()


class Network:
    """A site behind a network that may be cut, and one word from elsewhere, at ``chosen``."""

    def __init__(self, elsewhere, server, chosen):
        self.server = server
        self.elsewhere = elsewhere
        self.moments = Moments(chosen, self.log_out)

    @asynccontextmanager
    async def up(self, policy=Policy):
        async with Watched(self.server.port) as self.forwarder:
            self.site = self.elsewhere.site(self.forwarder.url, policy)
            self.site.policy.table |= {"ann", "bob"}
            async with running(self.site.app):
                yield self.site

    def log_out(self, user="ann"):
        self.elsewhere.log_out(self.site, user)

    def begin(self):
        """From now on moments count."""
        self.forwarder.moments = self.moments

    def end(self):
        """They count no more; the word comes now, if it has not come."""
        self.forwarder.moments = None
        if not self.moments.has_come:
            self.moments.now()

    @property
    def is_last(self):
        return self.moments.passed <= self.moments.chosen


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_stays_who_is_put_out_at_a_command_to_redis(elsewhere, redis_server, kind):
    ends = []
    is_last = False
    while not is_last:
        network = Network(elsewhere, redis_server, len(ends))
        async with network.up() as site:
            network.begin()
            client = Client(site.app, kind)
            await client.served()
            network.end()
            ends.append(await client.ended())
            assert site.open == 0
        is_last = network.is_last
    assert ENDS[kind] <= set(ends) <= {CHECKED, *ENDS[kind]}
    assert len(ends) > 10


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_stays_who_is_put_out_as_a_process_listens_again(
    elsewhere, redis_server, kind, monkeypatch
):
    monkeypatch.setattr(hub, "BACKOFF", (0.001, 0.01))
    befores, ends = [], []
    is_last = False
    while not is_last:
        network = Network(elsewhere, redis_server, len(ends))
        async with network.up() as site:
            before, bob = Client(site.app, kind), Client(site.app, "function", "bob")
            await before.served()
            await bob.served()
            network.begin()
            network.forwarder.cut()
            client = Client(site.app, kind)
            await client.served()
            # By now it listens again.
            network.log_out("bob")
            await bob.ended()
            network.end()
            befores.append(await before.ended())
            ends.append(await client.ended())
            assert site.open == 0
        is_last = network.is_last
    assert set(befores) <= {CHECKED, *ENDS[kind]} - {REFUSED}
    assert ENDS[kind] - {REFUSED} <= set(ends) <= {CHECKED, *ENDS[kind]}
    assert len(ends) > 10


@pytest.mark.parametrize("kind", KINDS)
async def test_who_came_while_redis_was_out_of_reach_is_looked_at_when_it_is_there(
    elsewhere, redis_server, kind, monkeypatch
):
    monkeypatch.setattr(hub, "BACKOFF", (0.001, 0.01))
    monkeypatch.setattr(users, "SPREAD", 0.01)
    network = Network(elsewhere, redis_server, 0)
    async with network.up() as site:
        network.forwarder.port = None
        client = Client(site.app, kind)
        await client.served()
        assert not client.task.done()
        network.log_out()
        network.forwarder.port = redis_server.port
        assert await client.ended() in {CHECKED, *ENDS[kind]} - {REFUSED}


class HeldPolicy(Policy):
    """Has looked into the table, and waits, the first time that it is asked."""

    def __init__(self):
        super().__init__()
        self.held = Held()
        self.has_waited = threading.Event()

    def permits(self, request, context, permission):
        is_permitted = super().permits(request, context, permission)
        if not self.has_waited.is_set():
            self.has_waited.set()
            self.held.wait()
        return is_permitted


@pytest.mark.parametrize("kind", KINDS)
async def test_so_is_whose_handshake_was_under_way_until_then(
    elsewhere, redis_server, kind, monkeypatch
):
    monkeypatch.setattr(hub, "BACKOFF", (0.001, 0.01))
    network = Network(elsewhere, redis_server, 0)
    async with network.up(HeldPolicy) as site:
        network.forwarder.port = None
        client = Client(site.app, kind)
        await site.policy.held.reached()
        network.log_out()
        network.forwarder.port = redis_server.port
        bob = Client(site.app, "function", "bob")
        await bob.served()
        # It listens before that, as bob hears what is said.
        network.log_out("bob")
        await bob.ended()
        site.policy.held.go_on()
        end = await client.ended()
        assert end in {CHECKED, *ENDS[kind]}
