"""The functions that ``pserve`` calls, before a server runs."""

import sys

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers import servers
from pyramid_asgi_consumers.servers import runners
from tests.support.pserve import SERVERS
from tests.support.servers import HOST, free_port


def test_an_exit_without_an_error_is_let_through():
    with pytest.raises(SystemExit), runners._failure("daphne"):
        sys.exit()


@pytest.mark.parametrize("name", SERVERS)
def test_a_wsgi_application_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"{name} serves what .* a pipeline of the ini"):
        getattr(servers, name)(lambda environ, start_response: [])


@pytest.mark.parametrize("name", SERVERS)
def test_what_make_wsgi_app_returns_is_refused(name):
    with pytest.raises(ConfigurationError, match="main returns config.make_wsgi_app.*change that"):
        getattr(servers, name)(Configurator().make_wsgi_app())


def test_an_application_that_does_not_start_where_listen_says():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(RuntimeError, match="uvicorn does not start; it has logged why"):
        servers.uvicorn(app, listen=f"{HOST}:{free_port()}")
