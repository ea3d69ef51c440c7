"""What is done differently for Uvicorn."""

import asyncio

from pyramid_asgi_consumers import quirks


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
    # Who changes the path may have taken the root path off.
    assert await by_uvicorn("http://host/ws") == ""
