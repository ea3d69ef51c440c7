"""Looks at one scope and hands it on."""

import logging
from collections.abc import Callable
from typing import Any

from zope.interface import implementer

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.bridge import WSGIBridge, refuse
from pyramid_asgi_consumers.connection import Endpoint, Limit
from pyramid_asgi_consumers.denial import deny
from pyramid_asgi_consumers.environ import split_root_path
from pyramid_asgi_consumers.exceptions import BadRequest
from pyramid_asgi_consumers.interfaces import IASGIApplication, IConsumerMapper
from pyramid_asgi_consumers.origins import OriginRule

log = logging.getLogger(__name__)


@implementer(IASGIApplication)
class ASGIApplication:
    """What an ASGI server serves.

    ``registry`` holds the consumers; ``bridge`` serves every http request that none of them takes;
    ``rule`` says which pages may open websockets; ``max_connections`` is how many connections to
    consumers one process keeps open, None for any number.
    """

    def __init__(
        self,
        registry: Any,
        bridge: WSGIBridge,
        rule: OriginRule,
        max_connections: int | None = None,
    ) -> None:
        self.registry = registry
        self.bridge = bridge
        self.mapper = registry.getUtility(IConsumerMapper)
        process = Limit(max_connections)
        self._endpoints = {consumer: Endpoint(consumer, rule, process) for consumer in self.mapper}

    @property
    def wsgi_app(self) -> Callable[..., Any]:
        """The WSGI application behind the bridge."""
        return self.bridge.wsgi_application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one ``scope``; ValueError for a type that is not known."""
        kind = scope["type"]
        if kind == "http":
            if not self.mapper.has("http"):
                return await self.bridge(scope, receive, send)
            await self._http(scope, receive, send)
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise ValueError(f"scope type must be http, websocket or lifespan, not {kind!r}")

    async def _http(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        try:
            found = self._find(scope)
        except BadRequest as error:
            log.info("400 for %s %r: %s", scope["method"], scope["path"], error)
            return await refuse(scope, send, 400, "Bad Request")
        if found is None:
            return await self.bridge(scope, receive, send)
        endpoint, own = found
        await endpoint.http(own, receive, send)

    async def _websocket(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        try:
            found = self._find(scope)
        except BadRequest as error:
            log.info("400 for a handshake to %r: %s", scope["path"], error)
            return await deny(scope, send, 400)
        if found is None:
            log.info("404 for a handshake to %r: no consumer", scope["path"])
            return await deny(scope, send, 404)
        endpoint, own = found
        await endpoint.websocket(own, receive, send)

    def _find(self, scope: dict[str, Any]) -> tuple[Endpoint, dict[str, Any]] | None:
        root_path = self.bridge.root_path
        if root_path is None:
            root_path = quirks.root_path(scope)
        root_path, path = split_root_path(scope, root_path)
        found = self.mapper(scope["type"], path)
        if found is None:
            return None
        consumer, path_params = found
        own = {
            **scope,
            "root_path": root_path,
            "path_params": path_params,
            "url_route": {"args": (), "kwargs": path_params},
            "pyramid.registry": self.registry,
        }
        return self._endpoints[consumer], own

    async def _lifespan(self, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.bridge.drain()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})
