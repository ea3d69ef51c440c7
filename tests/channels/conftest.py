import threading
from uuid import uuid4

import pytest

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import RedisBackend
from tests.support.committed import Recorder, published


@pytest.fixture
def all_is_published():
    """No thread of the test's commits is left."""
    yield
    published()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def channels(request):
    if request.param == "memory":
        return Channels(MemoryBackend())
    server = request.getfixturevalue("redis_server")
    return Channels(RedisBackend(server.url, prefix=f"{uuid4()}:"))


@pytest.fixture
def backend():
    return Recorder()


@pytest.fixture
def late(monkeypatch):
    """Threads that publish begin when they are let, by calling this."""
    start, waiting = threading.Thread.start, []

    def later(self):
        if self.name == "channels-committed":
            waiting.append(self)
        else:
            start(self)

    def let():
        for thread in waiting:
            start(thread)

    monkeypatch.setattr(threading.Thread, "start", later)
    return let
