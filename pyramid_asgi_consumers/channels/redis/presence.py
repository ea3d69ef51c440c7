"""Who is present on the channels of one event loop, and how Redis hears of it.

Redis hears of a member when it first comes and when it is last gone, and of all at each heartbeat:
where these stop, as after a crash, the members expire. A member stands there with a token of its
event loop before it, so that nobody takes another's out.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Iterable
from typing import Any

from redis.exceptions import ResponseError

from pyramid_asgi_consumers.channels.events import decode
from pyramid_asgi_consumers.channels.redis.answers import is_elsewhere, passes
from pyramid_asgi_consumers.channels.redis.commands import BATCH, Command, Commands
from pyramid_asgi_consumers.channels.redis.keys import Keys
from pyramid_asgi_consumers.channels.redis.scripts import ENTER, LEAVE
from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

#: Seconds after which the members of a process that was killed are gone.
PRESENCE_EXPIRY = 20


class Presence:
    """The members that subscribe on one event loop. What is returned is to be waited for."""

    def __init__(self, keys: Keys, commands: Commands) -> None:
        self._keys = keys
        self._commands = commands
        self._token = secrets.token_hex(8).encode()
        # How often each is there, by channel.
        self._members: dict[str, Counter[bytes]] = {}

    def enter(self, channel: str, member: bytes) -> Command | None:
        """Note one more subscription of ``member``; return the command if it is the first one."""
        members = self._members.setdefault(channel, Counter())
        members[member] += 1
        return self._enter(channel, [member]) if members[member] == 1 else None

    def leave(self, channel: str, member: bytes) -> Command | None:
        """Note one less; return the command if it was the last one."""
        members = self._members[channel]
        members[member] -= 1
        left = None
        if not members[member]:
            del members[member]
            left = self._commands.submit(
                LEAVE, self._keys.members(channel), self._token + b":" + member
            )
        if not members:
            del self._members[channel]
        return left

    async def entered(self, commands: Iterable[Command]) -> None:
        """Wait until these were carried out, or not: then they are at the next heartbeat."""
        try:
            for command in commands:
                await self._answer_to(command)
        except ChannelsError as error:
            log.debug("Members will be entered again: %s", Shown(error))

    async def enter_again(self) -> ChannelsError | None:
        """Enter all once more; return the error of a server that is not the one to talk to."""
        refused: ChannelsError | None = None
        names = list(self._members)
        for start in range(0, len(names), BATCH):
            entered = [
                self._enter(name, self._members[name])
                for name in names[start : start + BATCH]
                if name in self._members
            ]
            for command in entered:
                try:
                    await self._answer_to(command)
                except ChannelsError as error:
                    # They are entered again at the next heartbeat.
                    if is_elsewhere(error.__cause__):
                        refused = error
        return refused

    def _enter(self, channel: str, members: Iterable[bytes]) -> Command:
        return self._commands.submit(
            ENTER,
            self._keys.members(channel),
            PRESENCE_EXPIRY,
            *(self._token + b":" + member for member in members),
        )

    async def _answer_to(self, command: Command) -> None:
        # Redis refuses where foreign data is under a key of ours: that is logged, and no more.
        try:
            await self._commands.answer_to(command)
        except PublishRefused as error:
            if not isinstance(error.__cause__, ResponseError) or passes(error.__cause__):
                raise
            log.warning(
                "Skipped what is under %s: %s",
                Shown(command.arguments[0]),
                Shown(error.__cause__),
            )


def members_of(key: bytes, entries: Iterable[bytes]) -> list[Any]:
    """Return the members that stand under ``key``, each once, whoever has entered them."""
    members = []
    for payload in sorted({entry.partition(b":")[2] for entry in entries}):
        try:
            members.append(decode(payload))
        except ValueError as error:
            log.warning("Skipped foreign bytes in %s: %s", Shown(key), Shown(error))
    return members
