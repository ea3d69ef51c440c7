"""What a Redis URL may say."""

import asyncio

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from redis import Redis

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.events import encode
from pyramid_asgi_consumers.channels.redis import RedisBackend
from tests.support.channels import take


@pytest.mark.parametrize(
    "url, complaint",
    [
        ("redis://localhost/zero", "database in a Redis URL is a number"),
        ("redis://localhost:port/0", "port"),
        ("redis://localhost/0?db=x", "'db'"),
        ("redis://localhost/0?max_connections=0", "max_connections is at least 1, not 0"),
        ("redis://localhost/0?socket_timeout=0.5", "socket_timeout .* asgi.channels.timeout"),
        ("redis://localhost/0?socket_connect_timeout=1", "asgi.channels.timeout"),
        ("unix:///run/redis.sock?timeout=1", "option timeout .* asgi.channels.timeout"),
        ("redis://localhost/0?retry_on_timeout=True", "retry_on_timeout .* tried once"),
        ("redis://localhost/0?retry_on_error=x", "retry_on_error .* tried once"),
        ("redis://localhost/0?parser_class=x", "the options in a Redis URL are .*'parser_class'"),
        ("redis://localhost/0?protocl=3", "the options in a Redis URL are .*'protocl'"),
        ("rediss://localhost/0?ssl_cert_reqs=x", "redis-py refuses: .*Certificate Requirements"),
        ("rediss://localhost/0?ssl_x=y", "the options in a Redis URL are .*'ssl_x'"),
        ("redis://localhost/0?ssl_cert_reqs=none", "'ssl_cert_reqs' .* needs rediss://"),
        ("redis://localhost/0?client_name=a b", "client_name .* not 'a b'"),
    ],
)
def test_a_bad_url_is_refused_by_name(url, complaint):
    with Configurator(settings={"asgi.channels": url}) as config:
        config.include("pyramid_asgi_consumers")
        with pytest.raises(ConfigurationError, match=f"(?s)asgi.channels: .*{complaint}"):
            config.commit()


async def works(url):
    """Whether publishing, subscribing and presence do what they promise."""
    backend = RedisBackend(url, timeout=2.0, history=10)
    channels = Channels(backend)
    async with channels.subscribe("\u20ac", presence="ann") as events:
        await channels.publish("\u20ac", 1)
        await asyncio.to_thread(backend.publish_many, [("\u20ac", encode(2))])
        arrived = [event.data for event in await take(events, 2)]
        present = await channels.present("\u20ac")
    await backend.aclose()
    return (arrived, present) == ([1, 2], ["ann"])


@pytest.mark.parametrize(
    "options",
    [
        "protocol=3",
        "decode_responses=True&encoding=utf-16&encoding_errors=replace",
        "health_check_interval=1&legacy_responses=False&socket_read_size=1&lib_name=x&lib_version=1",
    ],
)
async def test_options_for_an_applications_own_answers_change_nothing(options, server):
    assert await works(f"{server.url}?{options}")


async def test_a_unix_socket_does_as_well(server, tmp_path):
    server.stop()
    path = tmp_path / "redis.sock"
    server.start("--unixsocket", str(path))
    assert await works(f"unix://{path}")


async def test_options_of_the_connection_are_honoured(server):
    server.client.config_set("requirepass", "secret")
    options = "password=secret&db=1&client_name=us&socket_keepalive=yes"
    url = f"{server.url.removesuffix('/0')}?{options}"
    assert await works(url)
    backend = RedisBackend(url)
    connection = backend.blocking.pool.get_connection()
    clients = Redis.from_url(server.url, password="secret").client_list()
    assert [client["db"] for client in clients if client["name"] == "us"] == ["1"]
    backend.blocking.pool.release(connection)
    backend.blocking.pool.disconnect()
