"""Servers of a test's own. What uses a server has the mark ``redis``."""

from pathlib import Path

import pytest

from tests.support.forwarder import Forwarder
from tests.support.redis_server import running_redis


@pytest.hookimpl(tryfirst=True)  # before marks are selected
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            if {"server", "redis_server"} & set(item.fixturenames):
                item.add_marker(pytest.mark.redis)


@pytest.fixture
def server(tmp_path):
    """A Redis that the test may stop."""
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
def other(tmp_path):
    """Another one."""
    directory = tmp_path / "other"
    directory.mkdir()
    with running_redis(directory) as server:
        yield server


@pytest.fixture
async def forwarder(server):
    """A network before the server."""
    async with Forwarder(server.port) as forwarder:
        yield forwarder
