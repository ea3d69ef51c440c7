"""The races of a loop's connections to Redis, one step at a time."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from redis.exceptions import ReadOnlyError

from pyramid_asgi_consumers.channels.redis import commands as commands_module
from pyramid_asgi_consumers.channels.redis import hub
from pyramid_asgi_consumers.channels.redis.answers import as_channels_error, unreachable
from pyramid_asgi_consumers.channels.redis.connections import Connections
from pyramid_asgi_consumers.channels.redis.feeds import StreamFeed
from pyramid_asgi_consumers.channels.redis.pages import AHEAD
from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused
from tests.channels.test_channels_feeds import Subscriber, lone_hub, settled_feed

SECONDS = 20


async def test_of_several_confirmations_the_last_is_that_of_the_feed_that_is_there():
    joined, feed = lone_hub(), settled_feed()
    joined.feeds[b"a"] = feed
    joined._unconfirmed[b"a"] = 2
    joined._confirm(b"a")
    assert not feed.confirmed
    joined._confirm(b"a")
    assert feed.confirmed


async def test_a_message_or_a_page_of_a_channel_that_was_left_is_nobodys():
    left, feed = lone_hub(), settled_feed()
    feed.asked = True
    left._receive(b"a", b"1-2 j2")
    left._take(feed, None)
    assert (feed.asked, feed.last) == (False, (1, 1))


class Connection:
    """One that is answered with ``replies``, or fails where one is an error."""

    _reader = _writer = None

    def __init__(self, *replies):
        self.replies = list(replies)
        self.sent = []

    @asynccontextmanager
    async def take(self):
        yield self

    def pack_commands(self, commands):
        return commands

    async def send_packed_command(self, commands, check_health):
        self.sent += commands

    async def read_response(self, disconnect_on_error):
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def reading_hub(connection, *names):
    """A hub that is to read what is stored in the channels ``names``."""
    reading = lone_hub()
    reading._backend.stream = str.encode
    reading._backend.timeout = SECONDS
    reading._connections = connection
    reading._life = b"one"
    for name in names:
        feed = reading.feeds[name.encode()] = StreamFeed(name, False)
        feed.add(Subscriber(), None, in_touch=True)
        feed.confirmed = True
        reading._want(feed)
    return reading


EMPTY = [b"one", b"", b"", b""]


async def test_a_channel_that_was_left_before_it_was_asked_for_is_not_read():
    connection = Connection()
    left = reading_hub(connection, "a")
    left.feeds.clear()
    await left._read_stored()
    assert (connection.sent, left._wanted.is_set()) == ([], False)


async def test_pages_that_were_on_their_way_when_the_connection_broke_are_asked_for_again():
    reading = reading_hub(Connection(EMPTY, ConnectionResetError()), "a", "b")
    await reading._read_stored()
    assert [feed.settled for feed in reading.feeds.values()] == [True, False]
    assert list(reading._first) == [reading.feeds[b"b"]]
    reading._connections = Connection(EMPTY)
    await reading._read_stored()
    assert len(reading._connections.sent) == 1
    assert all(feed.settled for feed in reading.feeds.values())


async def test_a_connection_that_breaks_before_anything_was_read_is_an_error():
    reading = reading_hub(Connection(ConnectionResetError()), "a")
    with pytest.raises(ConnectionResetError):
        await reading._read_stored()


async def test_many_channels_are_not_asked_for_at_once():
    names = [str(number) for number in range(2 * AHEAD)]
    connection = Connection(*[EMPTY] * len(names))
    reading = reading_hub(connection, *names)
    await reading._read_stored()
    assert len(connection.sent) == len(names)


class Commands:
    """Commands of which each is answered with the next of ``answers``, or fails with it."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.elsewhere = asyncio.Event()

    def submit(self, script, *arguments):
        return SimpleNamespace(arguments=arguments)

    async def answer(self, command):
        answer = self.answers.pop(0)
        # So that nobody waits for the next look.
        self.elsewhere.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run(self, script, *arguments):
        return await self.answer(self.submit(script, *arguments))


REPLICA = as_channels_error(ReadOnlyError("You can't write against a read only replica"))
AWAY = unreachable("no answer")


async def test_presence_that_is_not_entered_again_is_at_the_next_beat_but_at_a_replica():
    present = lone_hub()
    present._token = b"token"
    present._backend.members = str.encode
    present._members = {"a": {b"ann": 1}}
    for answer, refused in [(None, None), (AWAY, None), (REPLICA, REPLICA)]:
        present._commands = Commands(answer)
        assert await present._enter_again() is refused


async def test_a_beat_that_is_refused_or_not_answered_is_the_end(monkeypatch):
    monkeypatch.setattr(hub, "BEAT", 0.001)
    beating = lone_hub()
    beating._members = {}
    with pytest.raises(TimeoutError, match="no sign of life"):
        await beating._beat(Connection())
    assert ("PING",) in beating._changes
    beating._token = b"token"
    beating._backend.members = str.encode
    beating._members = {"a": {b"ann": 1}}
    beating._commands = Commands(REPLICA)
    with pytest.raises(PublishRefused, match="read only"):
        await beating._beat(Connection())


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([AWAY, (b"slave", b"one"), AWAY, (b"slave", b"two")], "slave now, in life b'two'"),
        ([(b"master", b"one"), AWAY, (b"slave", b"one")], "slave now, in life b'one'"),
        ([AWAY, REPLICA], "read only"),
    ],
)
async def test_a_server_that_is_another_one_meanwhile_is_left(answers, error):
    watching = lone_hub()
    watching._backend.stream = str.encode
    watching._life = b"one"
    watching._commands = Commands(*answers)
    with pytest.raises((ConnectionError, PublishRefused), match=error):
        await watching._watch()
    assert watching._commands.answers == []


async def test_an_outage_is_said_once_and_so_is_its_end(caplog):
    broken = lone_hub()
    for _ in "ab":
        broken._is_out(ConnectionResetError("gone"))
    for _ in "ab":
        broken._is_back()
    assert ["out of touch" in message for message in caplog.messages] == [True, False]


async def test_a_hub_that_closes_meanwhile_takes_no_subscription():
    closed = lone_hub()
    closed._closed = True
    with pytest.raises(ChannelsError, match="closed while a subscription was entered"):
        await closed.attach(Subscriber())


class Pool:
    """A pool of one connection, which ``get`` is asked for."""

    def __init__(self, get):
        self.get_connection = get
        self.released = []

    async def release(self, connection):
        self.released.append(connection)

    async def disconnect(self):
        self.released.append("disconnected")


async def test_a_connection_that_came_with_a_cancellation_is_released():
    async def get():
        taking.cancel()
        return "connection"

    async def take():
        await connections.take().__aenter__()

    pool = Pool(get)
    connections = Connections(pool, SECONDS)
    taking = asyncio.ensure_future(take())
    await asyncio.wait([taking])
    assert (taking.cancelled(), pool.released) == (True, ["connection"])
    await connections.aclose()
    assert pool.released == ["connection", "disconnected"]


async def test_a_connection_that_never_came_is_not_released():
    asked = asyncio.Event()

    async def get():
        asked.set()
        await asyncio.Event().wait()

    async def fails():
        raise ConnectionResetError

    async def take():
        await connections.take().__aenter__()

    pool = Pool(get)
    connections = Connections(pool, SECONDS)
    taking = asyncio.ensure_future(take())
    await asked.wait()
    taking.cancel()
    await asyncio.wait([taking])
    assert taking.cancelled()
    pool.get_connection = fails
    with pytest.raises(ConnectionResetError):
        await take()
    assert pool.released == []
    await connections.aclose()


async def test_commands_that_wait_behind_a_batch_are_given_up_at_the_end(monkeypatch):
    monkeypatch.setattr(commands_module, "BATCH", 1)
    asked = asyncio.Event()

    async def get():
        asked.set()
        await asyncio.Event().wait()

    commands = commands_module.Commands(Connections(Pool(get), SECONDS), SECONDS)
    two = [commands.submit("a script") for _ in "ab"]
    await asked.wait()
    await commands.aclose()
    assert ["cannot be reached" in str(command.future.exception()) for command in two] == [True] * 2
