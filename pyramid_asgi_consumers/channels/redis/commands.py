"""Scripts that run on an event loop: in order, in batches, all over one connection.

One task sends and reads for all callers, so a caller who is cancelled does not tear the connection
down under the others. Each caller waits for the timeout at most. A command that was given up before
it was sent never is: it was refused for certain. After that, nobody knows.
"""

import asyncio
import logging
from collections import OrderedDict
from typing import Any

from redis.asyncio.connection import Connection as AsyncConnection

from pyramid_asgi_consumers.channels.redis.answers import (
    ANSWERS,
    CLOSED,
    EXPECTED,
    as_channels_error,
    is_elsewhere,
    unknown,
    unreachable,
)
from pyramid_asgi_consumers.channels.redis.connections import Connections, within
from pyramid_asgi_consumers.channels.redis.scripts import Script, batch_of
from pyramid_asgi_consumers.exceptions import ChannelsError
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

# How many commands go to Redis in one go.
BATCH = 256


class Command:
    """A script that is to run, and its answer to come."""

    __slots__ = ("script", "arguments", "future", "sent")

    def __init__(self, script: Script, arguments: tuple[Any, ...]) -> None:
        self.script = script
        self.arguments = arguments
        self.future = asyncio.get_running_loop().create_future()
        self.future.add_done_callback(_log_failure)
        self.sent = False

    def resolve(self, reply: Any) -> None:
        """Hand the reply to who waits, or raise it there if it is an error."""
        if self.future.done():
            return
        if isinstance(reply, ChannelsError):
            self.future.set_exception(reply)
        else:
            self.future.set_result(reply)

    def fail(self, reason: object) -> None:
        """Have who waits hear that no reply comes."""
        self.resolve(unknown(reason) if self.sent else unreachable(reason))


class Commands:
    """The commands of one event loop."""

    def __init__(self, connections: Connections, timeout: float) -> None:
        self._connections = connections
        self._timeout = timeout
        self._waiting: OrderedDict[Command, None] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        #: Set when the server said that it is not the one to talk to.
        self.elsewhere = asyncio.Event()

    async def run(self, script: Script, *arguments: Any) -> Any:
        """Run a script, its key first; return what it answers, or raise ChannelsError."""
        return await self.answer_to(self.submit(script, *arguments))

    def submit(self, script: Script, *arguments: Any) -> Command:
        """Have a script run; ``answer_to`` or ``give_up`` must follow."""
        command = Command(script, arguments)
        self._waiting[command] = None
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        return command

    async def answer_to(self, command: Command) -> Any:
        """Wait for the answer to what was submitted, and return it, or raise ChannelsError."""
        try:
            await asyncio.wait([command.future], timeout=self._timeout)
        except asyncio.CancelledError:
            self._waiting.pop(command, None)
            command.future.cancel()
            raise
        self.give_up(command)
        return command.future.result()

    def give_up(self, command: Command) -> None:
        """Wait no longer."""
        self._waiting.pop(command, None)
        command.fail(f"no answer within {self._timeout:g} seconds")

    async def _work(self) -> None:
        try:
            while self._waiting:
                count = min(len(self._waiting), BATCH)
                await self._send([self._waiting.popitem(last=False)[0] for _ in range(count)])
        finally:
            self._task = None
            while self._waiting:
                self._waiting.popitem(last=False)[0].fail(CLOSED)

    async def _send(self, batch: list[Command]) -> None:
        reason: object = CLOSED
        exchange = _Exchange(batch)
        try:
            async with self._connections.take() as connection:
                await within(self._timeout, exchange.run(connection), connection)
                if exchange.elsewhere:
                    await connection.disconnect(nowait=True)
            if exchange.elsewhere:
                await self._connections.leave_server()
                self.elsewhere.set()
        except EXPECTED as error:
            reason = error
        finally:
            # Last of all, so that who goes on finds nothing running.
            exchange.end(reason)

    async def aclose(self) -> None:
        """Give up all."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


class _Exchange:
    # One batch, sent at once. Each command is answered when its reply is there, but the last one is
    # answered by ``end``, so that who goes on then finds nothing running.

    def __init__(self, batch: list[Command]) -> None:
        self._commands = batch
        self._replies: list[Any] = []
        self.elsewhere = False

    async def run(self, connection: AsyncConnection) -> None:
        commands = [command for command in self._commands if not command.future.done()]
        self._commands = commands
        for command in commands:
            command.sent = True
        calls = batch_of((command.script, command.arguments) for command in commands)
        await connection.send_packed_command(connection.pack_commands(calls), check_health=False)
        replies = self._replies
        for _ in commands:
            if replies:
                commands[len(replies) - 1].resolve(replies[-1])
            try:
                replies.append(await connection.read_response(disconnect_on_error=False))
            except ANSWERS as error:
                replies.append(as_channels_error(error))
                self.elsewhere = self.elsewhere or is_elsewhere(error)

    def end(self, reason: object) -> None:
        for command, reply in zip(self._commands, self._replies, strict=False):
            command.resolve(reply)
        for command in self._commands[len(self._replies) :]:
            command.fail(reason)


def _log_failure(future: asyncio.Future[Any]) -> None:
    # Who asked may have been cancelled meanwhile, and never hear of the failure.
    if not future.cancelled() and future.exception() is not None:
        log.debug("A command failed: %s", Shown(future.exception()))
