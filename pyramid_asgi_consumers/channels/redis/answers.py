"""What it means when Redis answers with an error, or not at all.

For who publishes: it was refused for certain (:class:`.PublishRefused`), or nobody knows
(:class:`.PublishUnknown`). For the connection: this server is not the one to talk to
(``is_elsewhere``). For what is under a key: it is not ours (anything else but ``passes``).
"""

import asyncio
import re

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from pyramid_asgi_consumers.exceptions import ChannelsError, PublishRefused, PublishUnknown

#: What an outage of Redis raises.
EXPECTED = (ChannelsError, RedisError, OSError, asyncio.TimeoutError)
#: Redis's answers to a command that it did not carry out.
ANSWERS = (ResponseError, BusyLoadingError, AuthenticationError)
# How the doubt about what was sent begins.
UNKNOWN = "Whether it was published is unknown: "
#: Why a command gets no answer where the backend is closed.
CLOSED = "the connection was closed"


def is_elsewhere(error: BaseException | None) -> bool:
    """Return whether the server says that it is not the one to talk to.

    After a failover it is a replica, or cut off from its replicas; or it starts, or has another
    password or other rights. A new connection may lead to the right one.
    """
    # Before Redis 7 the word stands within a script's error.
    return isinstance(
        error, (ReadOnlyError, MasterDownError, BusyLoadingError, AuthenticationError)
    ) or (
        isinstance(error, ResponseError)
        and re.search(
            r"(?:^|-)(?:READONLY|MASTERDOWN|NOREPLICAS) |run the 'eval(?:sha)?' command", str(error)
        )
        is not None
    )


def passes(error: BaseException) -> bool:
    """Return whether the same command may well succeed later.

    Another server may be the right one, or this one is busy with somebody's script or has forgotten
    ours. All other errors are of what is stored under the key.
    """
    return is_elsewhere(error) or isinstance(error, NoScriptError) or str(error).startswith("BUSY ")


def as_channels_error(error: Exception) -> ChannelsError:
    """Return Redis's error as that of a publisher: refused, unless the event was stored already."""
    stored = str(error).startswith("STORED ")
    refusal = unknown(error) if stored else PublishRefused(f"Redis refused: {error}")
    refusal.__cause__ = error
    return refusal


def unreachable(reason: object) -> PublishRefused:
    """Return the error for what was not sent."""
    return PublishRefused(f"Redis cannot be reached: {reason}")


def unknown(reason: object) -> PublishUnknown:
    """Return the error for what was sent and not answered."""
    return PublishUnknown(f"{UNKNOWN}{reason}")


def not_told(asked: str, error: ChannelsError) -> ChannelsError:
    """Return the error for who published nothing, and only asked this."""
    untold = ChannelsError(f"{asked} is unknown: {str(error).removeprefix(UNKNOWN)}")
    untold.__cause__ = error
    return untold
