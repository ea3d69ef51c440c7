"""What the errors mean that Redis answers: refused, unknown, or asked at the wrong server."""

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
#: What Redis answers to a command that it did not carry out.
ANSWERS = (ResponseError, BusyLoadingError, AuthenticationError)
CLOSED = "the connection was closed"


def is_elsewhere(error: BaseException | None) -> bool:
    # Whether the server says that it is not the one to talk to: after a failover it is a replica,
    # or cut off from its replicas, or it starts, or has another password or other rights. A new
    # connection may lead to the right one. Before Redis 7 the word stands within a script's error.
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
    # Whether the error is not of what is under a key: another server may be the right one, or this
    # one be busy with somebody's script or have forgotten ours.
    return is_elsewhere(error) or isinstance(error, NoScriptError) or str(error).startswith("BUSY ")


def as_channels_error(error: Exception) -> ChannelsError:
    # But for what failed when the event was stored already.
    stored = str(error).startswith("STORED ")
    refusal = unknown(error) if stored else PublishRefused(f"Redis refused: {error}")
    refusal.__cause__ = error
    return refusal


def unreachable(reason: object) -> PublishRefused:
    return PublishRefused(f"Redis cannot be reached: {reason}")


def unknown(reason: object) -> PublishUnknown:
    return PublishUnknown(f"Whether it was published is unknown: {reason}")
