"""The Redis of the tests."""

import pytest

from tests.support.redis_server import RedisServer


def test_a_missing_redis_server_is_a_failure_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    server = RedisServer(tmp_path)
    with pytest.raises(pytest.fail.Exception, match="apt-get install redis-server"):
        server.start()
    server.close()
