"""Connections and commands without a Redis."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

from redis.exceptions import ReadOnlyError

from pyramid_asgi_consumers.channels.redis.answers import as_channels_error, unreachable


class Pool:
    """A pool of one connection, which ``get`` is asked for."""

    def __init__(self, get):
        self.get_connection = get
        self.released = []

    async def release(self, connection):
        self.released.append(connection)

    async def disconnect(self):
        self.released.append("disconnected")


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


class Commands:
    """Commands of which each is answered with the next of ``answers``, or fails with it."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.elsewhere = asyncio.Event()

    def submit(self, script, *arguments):
        return SimpleNamespace(arguments=arguments)

    async def answer_to(self, command):
        answer = self.answers.pop(0)
        # So that nobody waits for the next look.
        self.elsewhere.set()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run(self, script, *arguments):
        return await self.answer_to(self.submit(script, *arguments))


REPLICA = as_channels_error(ReadOnlyError("You can't write against a read only replica"))
AWAY = unreachable("no answer")
