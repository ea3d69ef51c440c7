"""Where every call of a server comes in: finds the lifespan, consumer or page for a scope."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from zope.interface import implementer

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.connection.endpoint import Endpoint, Limit
from pyramid_asgi_consumers.connection.limits import Limits
from pyramid_asgi_consumers.connection.users import Connections
from pyramid_asgi_consumers.exceptions import BadRequest, LifespanError
from pyramid_asgi_consumers.handshake.connected import DEFAULT_LEAVE_TIMEOUT, LEAVE_TIMEOUT
from pyramid_asgi_consumers.handshake.handshakes import Handshakes
from pyramid_asgi_consumers.handshake.origins import OriginRule
from pyramid_asgi_consumers.interfaces import IASGIApplication, IConsumerMapper
from pyramid_asgi_consumers.lifespan import Lifespan
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.refusal import refuse
from pyramid_asgi_consumers.shown import Shown
from pyramid_asgi_consumers.wsgi.bridge import WSGIBridge
from pyramid_asgi_consumers.wsgi.environ import is_text, origin_form, split_root_path

log = logging.getLogger(__name__)

_NOT_GIVEN = object()


class StatelessScope(dict[str, Any]):
    """The scope of one connection to a consumer, where there is no state."""

    def __missing__(self, key: str) -> Any:
        if key == "state":
            raise KeyError(
                'scope["state"] is not there: no lifespan has run, so that no context of'
                " add_asgi_lifespan was entered. Tests run it with `with TestApp(app)`"
            )
        raise KeyError(key)


@implementer(IASGIApplication)
class ASGIApplication:
    """What an ASGI server serves.

    Called as a WSGI application, with an environ and ``start_response``, it answers its pages.
    What it does not have itself, such as ``invoke_request``, is that of the WSGI application.

    ``registry`` holds the consumers; ``bridge`` serves every http request that none of them takes;
    ``handshakes`` makes those of guarded consumers; ``lifespan`` is what starts and stops; ``rule``
    says which pages may open websockets; ``connections`` are those to guarded consumers;
    ``max_connections`` is how many connections to consumers one process keeps open, None for any
    number; ``leave_timeout`` is how many seconds a websocket's
    function may go on after it has heard that its client has left; ``limits`` are those of one
    client or user, for consumers that state none.
    """

    def __init__(
        self,
        registry: Any,
        bridge: WSGIBridge,
        handshakes: Handshakes,
        lifespan: Lifespan,
        rule: OriginRule,
        connections: Connections,
        max_connections: int | None = None,
        leave_timeout: float = DEFAULT_LEAVE_TIMEOUT,
        limits: Limits | None = None,
    ) -> None:
        self.registry = registry
        self.bridge = bridge
        self.handshakes = handshakes
        self.lifespan = lifespan
        self.mapper = registry.getUtility(IConsumerMapper)
        self.rule = rule
        self.limit = Limit(max_connections)
        self.connections = connections
        self.leave_timeout = leave_timeout
        self.limits = limits
        self._endpoints: dict[Consumer, Endpoint] = {}
        self._was_wsgi = False
        # Servers look here whether it is a coroutine function; a call looks at the class.
        vars(self)["__call__"] = self._serve

    def __copy__(self) -> "ASGIApplication":
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        vars(copied)["__call__"] = copied._serve
        return copied

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "bridge" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.wsgi_app, name)

    @property
    def wsgi_app(self) -> Callable[..., Any]:
        """The WSGI application behind the bridge."""
        return self.bridge.wsgi_application

    def __call__(
        self, scope: dict[str, Any], receive: Any, send: Any = _NOT_GIVEN
    ) -> Awaitable[None] | Iterable[bytes]:
        """Serve one ``scope``; ValueError for a type that is not known.

        With an environ and ``start_response`` it is a WSGI application (PEP 3333). TypeError for
        anything else.
        """
        if send is _NOT_GIVEN:
            return self._answer_wsgi(scope, receive)
        return self._serve(scope, receive, send)

    def _answer_wsgi(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        if not isinstance(environ, dict):
            # Uvicorn takes a function that is not async for an ASGI 2 application.
            reason = (
                "Called with neither a scope nor an environ. Either the server was given main,"
                " which makes an application, in place of one (uvicorn module:main: write an app.py"
                " with app = pyramid.paster.get_app('production.ini'), and serve app:app); or it"
                " does not speak ASGI (granian needs --interface asgi)"
            )
            log.error("%s", reason)
            raise TypeError(reason)
        if not self._was_wsgi:
            self._was_wsgi = True
            log.warning(
                "Called as a WSGI application: pages are answered, consumers are not reached, and"
                " lifespan contexts are not entered. An ASGI server serves all (Uvicorn, Daphne,"
                " Hypercorn, Granian, gunicorn -k asgi)"
            )
        return self.wsgi_app(environ, start_response)

    async def _serve(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            return await self.lifespan(scope, receive, send)
        if kind not in ("http", "websocket"):
            raise ValueError(f"scope type must be http, websocket or lifespan, not {kind!r}")
        loop = asyncio.get_running_loop()
        run = self.lifespan.runs.get(loop)
        if run is None or not run.entered:
            try:
                run = await self.lifespan.start(scope)
            except LifespanError:
                return await refuse(scope, send, 500)
        # What the server has of it, it hands on by itself.
        if run.state and (run.is_own or "state" not in scope):
            scope = {**scope, "state": {**scope.get("state", {}), **run.state}}
        if "://" in scope["path"] or not scope["path"]:
            scope = origin_form(scope, quirks.put_before(scope))
        server = quirks.served_by(scope, send)
        try:
            found = self._find(scope, server)
        except BadRequest as error:
            log.info("400 for a %s request to %s: %s", kind, Shown(scope["path"]), Shown(error))
            return await refuse(scope, send, 400, server=server)
        if found is not None:
            endpoint, own = found
            await getattr(endpoint, kind)(own, receive, send, loop)
        elif kind == "http":
            await self.bridge(scope, receive, send, server)
        else:
            log.info("404 for a handshake to %s: no consumer", Shown(scope["path"]))
            await refuse(scope, send, 404, server=server)

    def _find(
        self, scope: dict[str, Any], server: quirks.Server
    ) -> tuple[Endpoint, dict[str, Any]] | None:
        if not self.mapper.has_consumers(scope["type"]):
            return None
        root_path = self.bridge.root_path
        if root_path is None:
            root_path = server.root_path(scope)
        root_path, path = split_root_path(scope, root_path)
        if not is_text(path):
            return None
        found = self.mapper(scope["type"], path, scope.get("method"))
        if found is None:
            return None
        consumer, path_params = found
        own = {
            **scope,
            "root_path": root_path,
            "path_params": path_params,
            "url_route": {"args": (), "kwargs": path_params},
            "pyramid.registry": self.registry,
            LEAVE_TIMEOUT: self.leave_timeout,
            quirks.SERVED_BY: server,
        }
        if "state" not in own:
            own = StatelessScope(own)
        endpoint = self._endpoints.get(consumer)
        if endpoint is None:
            endpoint = Endpoint(
                consumer, self.rule, self.limit, self.handshakes, self.connections, self.limits
            )
            self._endpoints[consumer] = endpoint
        return endpoint, own
