import asyncio
import sys

import pytest

from pyramid_asgi_consumers.websocket import watcher
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """A Redis for all tests; one that a test stops is a ``RedisServer`` of its own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def switching():
    """Threads switch as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def soon(monkeypatch):
    """Who looks whether a client has left does so at once."""
    monkeypatch.setattr(watcher, "INTERVAL", 0.001)


@pytest.fixture
async def nothing_is_left_behind():
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
