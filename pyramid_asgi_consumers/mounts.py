"""A whole ASGI application under a prefix."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from pyramid_asgi_consumers.lifespan import forget_closed, running
from pyramid_asgi_consumers.wsgi.environ import split_root_path


class Mount:
    """Serves ``app``, an ASGI 3 application, below ``prefix``.

    ``prefix`` starts with a slash and does not end with one. It is moved to the ``root_path`` of
    the scopes that ``app`` sees; their ``path`` starts with the ``root_path``, as Starlette's
    ``Mount`` has it (and ASGI www, HTTP connection scope, though not every server).
    """

    def __init__(self, prefix: str, app: Callable[..., Awaitable[None]]) -> None:
        self.prefix = prefix
        self.app = app
        # By event loop.
        self._states: dict[asyncio.AbstractEventLoop, dict[str, Any]] = {}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one http or websocket ``scope`` whose path is the prefix or below it."""
        root_path, path = split_root_path(scope)
        own = {
            **scope,
            "root_path": root_path + self.prefix,
            "path": root_path + path,
            "path_params": {},
            "url_route": {"args": (), "kwargs": {}},
        }
        state = self._states.get(asyncio.get_running_loop())
        if state:
            own["state"] = {**scope.get("state", {}), **state}
        await self.app(own, receive, send)

    @asynccontextmanager
    async def lifespan(self, registry: Any) -> AsyncIterator[Mapping[str, Any] | None]:
        """Run the application's own lifespan; its state is for its own connections."""
        loop = asyncio.get_running_loop()
        forget_closed(self._states)
        async with running(self.app) as self._states[loop]:
            try:
                yield None
            finally:
                del self._states[loop]
