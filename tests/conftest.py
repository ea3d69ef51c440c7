import asyncio
import sys

import pytest
from pyramid.config import Configurator

from pyramid_asgi_consumers.websocket import watcher
from tests.support.redis_server import running_redis
from tests.support.sessions import Clock

#: The files that take longest: they begin first, so that none of them goes on alone at the end.
LONGEST = [
    "test_endless_servers.py",
    "test_users_redis.py",
    "test_servers_base.py",
    "test_users_servers.py",
    "test_deployment.py",
    "test_leaving_servers.py",
    "test_servers_wrapped.py",
    "test_pserve_options.py",
    "test_fresh_machine.py",
    "test_example.py",
    "test_revalidation_servers.py",
    "test_bodies_servers.py",
    "test_servers.py",
    "test_stopping_servers.py",
    "test_no_window_redis.py",
    "test_soak.py",
    "test_resuming_servers.py",
    "test_users_around.py",
    "test_pserve.py",
    "test_limits_servers.py",
    "test_clicking.py",
    "test_tutorial_browser.py",
    "test_pages.py",
    "test_websocket_servers.py",
    "test_sentry.py",
    "test_event_streams_servers.py",
    "test_queue_servers.py",
    "test_processes.py",
    "test_mounted_servers.py",
]


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


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
def clock(monkeypatch):
    """What signed sessions go by."""
    clock = Clock()
    monkeypatch.setattr("pyramid.session.time", clock)
    return clock


@pytest.fixture
async def nothing_is_left_behind():
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
