"""Channels among any number of processes and machines, through Redis.

Each channel is one stream, which counts and keeps its events, and one Redis channel. On each event
loop all subscriptions share one connection, and all commands another.
"""

from pyramid_asgi_consumers.channels.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
