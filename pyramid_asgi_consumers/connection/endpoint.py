"""Who may connect to a consumer: its limits, its origin rule and, where guarded, its handshake."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.connection.http import serve_http
from pyramid_asgi_consumers.connection.limits import Limits, MessageLimits, UserPlaces, Warned
from pyramid_asgi_consumers.connection.shared import Shared
from pyramid_asgi_consumers.connection.users import Connection, Connections
from pyramid_asgi_consumers.connection.websocket import serve_websocket
from pyramid_asgi_consumers.exceptions import (
    BadRequest,
    ClientDisconnected,
)
from pyramid_asgi_consumers.handshake.connected import CONNECTION
from pyramid_asgi_consumers.handshake.early import EarlyEvents, waits_for_leave
from pyramid_asgi_consumers.handshake.handshakes import ADMISSION, Admission, Handshakes, Refusal
from pyramid_asgi_consumers.handshake.origins import OriginRule
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.refusal import refuse
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)


class Limit:
    """How many connections may be open at once, ``most``; None for any number.

    Those that are open here count ``within`` another limit, too.
    """

    def __init__(self, most: int | None, within: "Limit | None" = None) -> None:
        self.most = most
        self.within = within
        self.open = 0

    @property
    def full(self) -> bool:
        if self.most is not None and self.open >= self.most:
            return True
        return self.within is not None and self.within.full

    def __enter__(self) -> None:
        self.open += 1
        if self.within is not None:
            self.within.open += 1

    def __exit__(self, *exc_info: object) -> None:
        self.open -= 1
        if self.within is not None:
            self.within.open -= 1


class Endpoint:
    """Serves the connections of one consumer.

    ``rule`` is the origin rule of the application, ``process`` its limit for all consumers,
    ``handshakes`` makes the handshakes of guarded ones, which are noted in ``connections``;
    ``limits`` are those of a client or user where the consumer states none. Who serves a connection
    may know the event ``loop`` that runs; None asks for it.
    """

    def __init__(
        self,
        consumer: Consumer,
        rule: OriginRule,
        process: Limit,
        handshakes: Handshakes,
        connections: Connections,
        limits: Limits | None = None,
    ) -> None:
        self.consumer = consumer
        self.rule = rule.extended(consumer.origins)
        self.handshakes = handshakes
        self.connections = connections
        self.limit = Limit(consumer.max_connections, within=process)
        self._known: Shared | None = None
        limits = (limits or Limits()).of(consumer)
        self._warned = Warned(consumer)
        self._places = UserPlaces(limits.max_connections_per_user)
        # None costs nothing for a message.
        self._messages: MessageLimits | None = None
        if limits.max_message is not None or limits.max_rate is not None:
            self._messages = MessageLimits(limits, self._warned)

    async def websocket(
        self,
        scope: dict[str, Any],
        receive: Any,
        send: Any,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Serve a websocket, from its handshake to its close."""
        if self.limit.full:
            log.warning("503 for %s: max_connections are open", self.consumer)
            return await refuse(scope, send, 503)
        reason = self.rule.objection(scope["headers"])
        if reason is not None:
            log.warning("403 for a handshake to %s: %s", self.consumer, reason)
            return await refuse(scope, send, 403)
        if self.consumer.route_name is None:
            with self.limit:
                shared = self._shared(loop)
                return await serve_websocket(
                    self.consumer, scope, receive, send, [], shared, self._messages
                )
        serve = partial(serve_websocket, limits=self._messages)
        await self._guarded(serve, scope, receive, send, loop)

    async def http(
        self,
        scope: dict[str, Any],
        receive: Any,
        send: Any,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Serve an http request."""
        if self.limit.full:
            log.warning("503 for %s: max_connections are open", self.consumer)
            return await refuse(scope, send, 503)
        if self.consumer.route_name is None:
            with self.limit:
                shared = self._shared(loop)
                return await serve_http(self.consumer, scope, receive, send, [], shared)
        await self._guarded(serve_http, scope, receive, send, loop)

    async def _guarded(
        self,
        serve: Any,
        scope: dict[str, Any],
        receive: Any,
        send: Any,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        shared = self._shared(loop)
        connections = self.connections.of(shared.loop)
        async with EarlyEvents(receive) as early:
            with self.limit:
                await connections.listen()
                with connections.handshake() as handshake:
                    admission = await self._admitted(scope, send, early)
                if admission is None:
                    return
                if handshake.is_put_out(admission.userid):
                    log.info("403 for a handshake to %s: disconnected meanwhile", self.consumer)
                    return await refuse(scope, send, 403)
                connection = Connection(self.consumer, admission, handshake.began)
                with (
                    connections.connected(connection, handshake),
                    self._places.taken(admission.userid) as has_place,
                ):
                    if not has_place:
                        return await self._refuse_user(scope, send)
                    scope[CONNECTION] = connection
                    headers = admission.headers
                    await serve(
                        self.consumer,
                        scope,
                        early.receive,
                        send,
                        headers,
                        shared,
                        connection=connection,
                    )

    async def _refuse_user(self, scope: dict[str, Any], send: Any) -> None:
        self._warned.warn(scope, "503 for %s: max_connections_per_user are open for %s")
        await refuse(scope, send, 503)

    async def _admitted(
        self,
        scope: dict[str, Any],
        send: Any,
        early: EarlyEvents,
    ) -> Admission | None:
        # Completes the scope; or refuses, and returns None.
        try:
            left: Callable[[], Awaitable[bool]] | None = early.left
            if not quirks.served_by(scope, None).tells_who_left_early or waits_for_leave(scope):
                left = None
            outcome = await self.handshakes.admit(self.consumer, scope, left)
        except ClientDisconnected as error:
            log.debug("No handshake to %s: %s", self.consumer, Shown(error))
            # Nobody gets this, but servers log a connection that was not answered.
            await refuse(scope, send, 503)
            return None
        except BadRequest as error:
            log.info("400 for a handshake to %s: %s", self.consumer, Shown(error))
            await refuse(scope, send, 400)
            return None
        if isinstance(outcome, Refusal):
            log.info("%d for a handshake to %s: Pyramid's answer", outcome.status, self.consumer)
            await refuse(scope, send, outcome.status, outcome.headers, outcome.body or b"")
            return None
        scope["pyramid.request"] = outcome.request
        scope["pyramid.context"] = outcome.context
        scope["pyramid.userid"] = outcome.userid
        scope[ADMISSION] = outcome
        return outcome

    def _shared(self, loop: asyncio.AbstractEventLoop | None) -> Shared:
        # An application may serve on several event loops. To ask which one runs is dear.
        if loop is None:
            loop = asyncio.get_running_loop()
        shared = self._known
        if shared is None or shared.loop is not loop:
            shared = self._known = Shared()
        return shared
