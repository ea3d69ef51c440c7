"""Channels among any number of processes and machines, through Redis.

Each channel is one stream, which counts and keeps its events, and one Redis channel. On each event
loop all subscriptions share one connection, all commands another, and a third one reads what is
stored.

- ``backend.py`` puts the parts together; ``urls.py`` and ``keys.py`` say what a URL may be and how
  things are called in Redis.
- Publishing: ``scripts/`` is what Redis does, ``blocking.py`` (with ``deadlines.py``) runs it in
  threads, ``commands.py`` (with ``connections.py``) on an event loop. ``answers.py`` says what an
  error means.
- Subscribing: ``hub.py`` has the subscriptions of an event loop, ``session.py`` what one connection
  does for them, ``reader.py`` reads what is stored. ``feeds.py`` and ``readings.py`` decide what
  each subscriber gets; ``beginnings.py`` is where a channel without events stands; ``entries.py``
  tells what Redis sends.
- ``presence.py`` is who is there.
"""

from pyramid_asgi_consumers.channels.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
