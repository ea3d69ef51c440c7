import asyncio
import sys

import pytest
from pyramid.config import Configurator

from pyramid_asgi_consumers.websocket import watcher
from tests.support.redis_server import running_redis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    """A Redis for all tests; one that a test stops is a ``RedisServer`` of its own."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def config():
    """A project that has this add-on and nothing else."""
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    return config


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
