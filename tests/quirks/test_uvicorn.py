"""What is done differently for Uvicorn."""

import asyncio
from types import MethodType, SimpleNamespace

from pyramid_asgi_consumers import quirks
from tests.servers.test_servers import ask
from tests.support.servers import running


async def test_what_uvicorn_puts_before_a_target_is_its_own_alone():
    class Protocol:
        root_path = "/app"
        scope = {"path": "/apphttp://host/ws"}

        async def run_asgi(self, scope):
            return quirks.put_before(scope)

    async def by_uvicorn(path):
        return await asyncio.create_task(Protocol().run_asgi({"path": path}))

    assert await by_uvicorn("/apphttp://host/ws") == ""
    Protocol.__module__ = "uvicorn.protocols.websockets.wsproto_impl"
    assert await by_uvicorn("/apphttp://host/ws") == "/app"
    Protocol.__module__ = "uvicorn.protocols.http.h11_impl"
    Protocol.on_response = MethodType(print, SimpleNamespace(root_path="/cycle"))
    assert await by_uvicorn("/apphttp://host/ws") == "/cycle"
    # Who changes the path may have taken the root path off.
    assert await by_uvicorn("http://host/ws") == ""


def test_a_request_in_absolute_form_is_found_behind_the_root_path_with_h11_too(tmp_path):
    options = ["--http", "h11", "--root-path", "/app"]
    with running("uvicorn-websockets", tmp_path, options=options) as server:
        assert ask(server, "http://host/consumer/some") == (200, b"some")
        assert ask(server, "/http://host/consumer/some")[0] == 404
