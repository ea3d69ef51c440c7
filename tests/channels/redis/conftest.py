import pytest

from tests.support.forwarder import Forwarder
from tests.support.redis_server import RedisServer


@pytest.fixture
def server(tmp_path):
    """A Redis that the test may stop."""
    server = RedisServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def other(tmp_path):
    """Another one."""
    directory = tmp_path / "other"
    directory.mkdir()
    server = RedisServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def forwarder(server):
    """A network before the server."""
    async with Forwarder(server.port) as forwarder:
        yield forwarder
