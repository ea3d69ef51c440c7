"""Serves a WSGI application as an ASGI http application."""

import asyncio
import io
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

from asgiref.wsgi import WsgiToAsgi

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.async_views import LOOP_ARGUMENTS, Receive, cancel_views
from pyramid_asgi_consumers.exceptions import (
    BadRequest,
    BodyTooLarge,
    ClientDisconnected,
    ServerStopping,
)
from pyramid_asgi_consumers.refusal import answer_nobody, fail, refuse
from pyramid_asgi_consumers.shown import Shown
from pyramid_asgi_consumers.wsgi.body import SharedReceive, has_no_body, read_body
from pyramid_asgi_consumers.wsgi.environ import build_environ, origin_form
from pyramid_asgi_consumers.wsgi.handover import Ahead
from pyramid_asgi_consumers.wsgi.response import Response, Send
from pyramid_asgi_consumers.wsgi.sources import FileWrapper
from pyramid_asgi_consumers.wsgi.threads import Settler, ThreadPool

log = logging.getLogger(__name__)


class WSGIBridge(WsgiToAsgi):
    """The server side of WSGI (PEP 3333) over ASGI's http protocol.

    ``wsgi_app`` runs in up to ``threads`` threads of the bridge's own. A request body of more than
    ``max_body_size`` bytes is answered with 413. :meth:`drain` waits at most ``shutdown_timeout``
    seconds for what runs. ``multiprocess`` becomes ``wsgi.multiprocess``. ``root_path`` is where
    the application is mounted; None takes what the server says in the scope. ``stopping`` tells
    bodies without an end when the server stops; None where nothing does.
    """

    def __init__(
        self,
        wsgi_app: Callable[..., Any],
        threads: int = 32,
        *,
        max_body_size: int = 2**30,
        shutdown_timeout: float = 10.0,
        multiprocess: bool = False,
        root_path: str | None = None,
        stopping: Any = None,
    ) -> None:
        super().__init__(wsgi_app)
        self.max_body_size = max_body_size
        self.shutdown_timeout = shutdown_timeout
        self.multiprocess = multiprocess
        self.root_path = root_path
        self.stopping = stopping
        self.pool = ThreadPool(threads, "asgi-view", "views (asgi.threads)")
        #: The tasks of async views.
        self.awaited: set[asyncio.Task[Any]] = set()
        self._ahead = Ahead()
        self._settler: Settler | None = None

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
        server: quirks.Server | None = None,
    ) -> None:
        """Answer one request, whose ``scope`` has the type ``http`` (ValueError otherwise).

        ``server`` is what serves it, where that is known; None looks for it.

        An exception of the application is logged and answered with 500. One that comes after the
        response has started is raised, so that the server breaks the connection off.
        """
        if scope["type"] != "http":
            raise ValueError(f"WSGIBridge serves http, not {scope['type']!r}")
        if "://" in scope["path"]:
            scope = origin_form(scope)
        if server is None:
            server = quirks.served_by(scope, send)
        root_path = server.root_path(scope) if self.root_path is None else self.root_path
        body: BinaryIO
        try:
            environ = build_environ(scope, root_path, multiprocess=self.multiprocess)
            if has_no_body(scope):
                body, size = io.BytesIO(), 0
            else:
                length = environ.get("CONTENT_LENGTH")
                body, size = await read_body(
                    receive, None if length is None else int(length), self.max_body_size
                )
        except (BadRequest, BodyTooLarge) as error:
            status = 400 if isinstance(error, BadRequest) else 413
            log.info(
                "%d for %s %s: %s",
                status,
                Shown(scope["method"], quoted=False),
                Shown(scope["path"]),
                Shown(error),
            )
            return await refuse(scope, send, status)
        except ClientDisconnected:
            return await answer_nobody(scope, send)
        except OSError as error:
            # The temporary file: a full disk, say.
            return await fail(scope, send, False, error)
        if size:
            environ["CONTENT_LENGTH"] = str(size)
        environ["wsgi.input"] = body
        environ["wsgi.file_wrapper"] = FileWrapper
        # WebOb would copy a body that it does not know to be seekable.
        environ["webob.is_body_seekable"] = True
        loop = asyncio.get_running_loop()
        receive = SharedReceive(receive)
        environ[LOOP_ARGUMENTS] = loop, receive, self.awaited
        settler = self._settler
        if settler is None or settler.loop is not loop:
            settler = self._settler = Settler(loop)
        response = Response(
            self.wsgi_application, environ, body, settler, self.pool, self._ahead, self.stopping
        )
        try:
            self.pool.submit(partial(response.context.run, response.run))
        except RuntimeError as error:
            body.close()
            return await fail(scope, send, False, error)
        try:
            await response.send_to(receive, send, server.paced)
        except ServerStopping as error:
            if not response.sent:
                return await refuse(scope, send, 503)
            log.info(
                "%s %s is broken off: %s",
                Shown(scope["method"], quoted=False),
                Shown(scope["path"]),
                Shown(error),
            )
            # Servers break off what returns before its end, and say less of it than of an error.
            server.break_off()
        except Exception as error:
            says_left = isinstance(error, OSError) or quirks.is_of_a_closed_transport(error)
            is_own = error is response.error and not isinstance(error, ClientDisconnected)
            if is_own or not says_left:
                await fail(scope, send, response.sent, error, response.context, server)
            else:
                log.debug(
                    "The client left: %s %s",
                    Shown(scope["method"], quoted=False),
                    Shown(scope["path"]),
                )
                if not response.sent:
                    await answer_nobody(scope, send)

    async def drain(self) -> None:
        """Wait until no view runs, at most ``shutdown_timeout`` seconds; then cancel async ones."""
        if not await self.pool.drain(self.shutdown_timeout):
            log.warning("Views still run after %g s; they are left alone", self.shutdown_timeout)
            await cancel_views(self.awaited, self.shutdown_timeout)
