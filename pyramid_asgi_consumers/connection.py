"""One connection to a consumer: its limit and origin, and how it ends when the consumer raises."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any

from pyramid.httpexceptions import HTTPException

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.exceptions import (
    BadRequest,
    ClientDisconnected,
    InvalidMessage,
    SubscriptionOverflow,
    WebSocketDisconnect,
)
from pyramid_asgi_consumers.handshake.early import EarlyEvents, waits_for_leave
from pyramid_asgi_consumers.handshake.exchange import ADMISSION, Handshakes, Headers, Refusal
from pyramid_asgi_consumers.handshake.origins import OriginRule
from pyramid_asgi_consumers.mapper import Consumer
from pyramid_asgi_consumers.raised import StandIn, caught, separate
from pyramid_asgi_consumers.refusal import deny, rendered
from pyramid_asgi_consumers.shown import Shown
from pyramid_asgi_consumers.turns import TURN, Turns, give_way
from pyramid_asgi_consumers.websocket.watcher import RequestWatcher, SenderWatcher, Sweep
from pyramid_asgi_consumers.wsgi.bridge import answer_nobody, fail, refuse
from pyramid_asgi_consumers.wsgi.threads import context_of

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
    ``handshakes`` makes the handshakes of guarded ones. Who serves a connection may know the event
    ``loop`` that runs; None asks for it.
    """

    def __init__(
        self, consumer: Consumer, rule: OriginRule, process: Limit, handshakes: Handshakes
    ) -> None:
        self.consumer = consumer
        self.rule = rule.extended(consumer.origins)
        self.handshakes = handshakes
        self.limit = Limit(consumer.max_connections, within=process)
        self._watches = getattr(consumer.app, "watches", False)
        self._known_turns: Turns | None = None

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
            return await deny(scope, send, 503)
        reason = self.rule.refusal(scope["headers"])
        if reason is not None:
            log.warning("403 for a handshake to %s: %s", self.consumer, reason)
            return await deny(scope, send, 403)
        if self.consumer.route_name is None:
            with self.limit:
                return await self._serve_websocket(scope, receive, send, [], loop)
        async with EarlyEvents(receive) as early:
            with self.limit:
                headers = await self._admitted(scope, early, partial(deny, scope, send))
                if headers is not None:
                    await self._serve_websocket(scope, early.receive, send, headers, loop)

    async def _serve_websocket(
        self,
        scope: dict[str, Any],
        receive: Any,
        send: Any,
        headers: Headers,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        state = "connecting"
        server = quirks.served_by(scope, send)
        server_send = send
        receive, send = server.websocket(receive, send)
        denies = "websocket.http.response" in (scope.get("extensions") or {})
        held: dict[str, Any] | None = None
        sending: Any = None
        turns = self._turns(loop)
        due = 0.0
        watcher = None if self._watches else SenderWatcher(receive)
        asked: Any = None

        def noted_receive() -> Any:
            nonlocal asked
            asked = receive() if server.minds_who_left else watcher.noted(receive)
            return asked

        def tracked(message: dict[str, Any]) -> Any:
            nonlocal sending
            kind = message["type"]
            if kind == "websocket.send":
                if monotonic() >= due:
                    return looking(message)
            elif kind == "websocket.accept":
                if headers:
                    message = {**message, "headers": _merged(message.get("headers"), headers)}
                return settling(message, "open")
            elif kind == "websocket.close":
                return settling(message, "closed")
            elif denies and kind == "websocket.http.response.start" and state == "connecting":
                return holding(message)
            elif denies and kind == "websocket.http.response.body":
                return settling(message, "closed")
            sending = send(message)
            return sending

        async def settling(message: dict[str, Any], to: str) -> None:
            nonlocal state, sending, held
            before, state = state, to
            try:
                if held is not None and message["type"] == "websocket.http.response.body":
                    start, held = held, None
                    sending = send(start)
                    await sending
                    before = to
                sending = send(message)
                await sending
            except OSError:
                raise
            except Exception:
                # The server has not taken it, whatever it is by now itself.
                state = before
                if before == "connecting":
                    server.refused(server_send)
                raise
            if to == "open" and server.has_left(server_send):
                raise _ClientGone("The client has left")

        async def holding(message: dict[str, Any]) -> None:
            # The first message of the body sends it, as the specification asks of servers: until
            # then the handshake can still be answered otherwise.
            nonlocal held
            held = message

        def looking(message: dict[str, Any]) -> Any:
            nonlocal due, receive, sending
            now = monotonic()
            due = now + TURN
            if watcher is not None:
                if watcher.left:
                    # As the specification asks of servers, some of which never say so.
                    return _gone(message)
                receive = watcher.look(asked, now)
            sending = give_way(send, message) if turns.missed(now) else send(message)
            return sending

        denial: tuple[Any, ...] = (403,)
        code = 1000
        task = asyncio.current_task(turns.loop)
        try:
            own = receive if watcher is None else noted_receive
            call = self.consumer.app(scope, own, tracked)
            if not self._watches:
                # A function that watches itself has a task of its own.
                call, _ = separate(call, task)
            await call
            if held is not None:
                raise RuntimeError(f"{self.consumer} returned before the body of its denial")
        except BaseException as raised:
            error = _alone(caught(raised, task))
            if isinstance(error, WebSocketDisconnect | _ClientGone) or (
                isinstance(error, OSError) and _was_raised_by(send, sending, error)
            ):
                log.debug("The client of %s had left: %s", self.consumer, Shown(error))
                if state == "connecting":
                    # Nobody gets this, but servers log a handshake that was not answered.
                    await deny(scope, send, 503)
                return
            if isinstance(error, HTTPException):
                code = 4000 + error.status_int
                if state == "connecting":
                    denial = self._rendered(error)
            elif isinstance(error, InvalidMessage | SubscriptionOverflow):
                log.warning("%s closes with %d: %s", self.consumer, error.close_code, Shown(error))
                denial, code = (error.status,), error.close_code
            else:
                report = partial(log.error, "%s failed", self.consumer, exc_info=error)
                context_of(error).run(report)
                denial, code = (500,), 1011
        finally:
            if watcher is not None:
                await watcher.end()
        if state == "connecting":
            await deny(scope, send, *denial)
        elif state == "open":
            try:
                await send({"type": "websocket.close", "code": code, "reason": ""})
            except quirks.CLIENT_WAS_FASTER as error:
                # Servers say in different ways that the client was faster.
                log.debug("The client of %s had left: %s", self.consumer, Shown(error))

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
                return await self._serve_http(scope, receive, send, [], loop)
        async with EarlyEvents(receive) as early:
            with self.limit:
                headers = await self._admitted(scope, early, partial(_answer, scope, send))
                if headers is not None:
                    await self._serve_http(scope, early.receive, send, headers, loop)

    async def _serve_http(
        self,
        scope: dict[str, Any],
        receive: Any,
        send: Any,
        headers: Headers,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        started = ended = False
        sending: Any = None
        server = quirks.served_by(scope, send)
        paced = server.paced(send)
        turns = self._turns(loop)
        due = 0.0
        watcher = RequestWatcher(scope, receive, self._sweep)
        # A mounted application was written by others, and goes on as it does without us.
        is_own = not self.consumer.mounted

        def tracked(message: dict[str, Any]) -> Any:
            nonlocal due, sending
            if watcher.left and is_own and not ended:
                # As the specification asks of servers.
                watcher.told(str(self.consumer))
                return _gone(message)
            kind = message["type"]
            if kind == "http.response.start":
                if headers:
                    message = {**message, "headers": _merged(message.get("headers"), headers)}
                return taking(message, False)
            elif kind in _BODIES:
                body = message.get("body", b"")
                if not isinstance(body, _BYTES):
                    # Some servers answer with less, or hang.
                    raise TypeError(
                        f"{self.consumer} must send bytes as body, not {type(body).__name__}"
                    )
                if not message.get("more_body"):
                    return taking(message, True)
                if (now := monotonic()) >= due:
                    due = now + TURN
                    if turns.missed(now):
                        sending = give_way(paced, message)
                        return sending
            sending = paced(message)
            return sending

        async def taking(message: dict[str, Any], is_end: bool) -> None:
            # What the server does not take has not happened, but for a client that has left.
            nonlocal started, ended, sending
            before = started, ended
            if is_end:
                ended = True
                watcher.stop()
            else:
                started = True
            try:
                sending = paced(message)
                await sending
            except OSError:
                raise
            except Exception:
                started, ended = before
                if not started:
                    server.refused(send)
                raise

        task = asyncio.current_task(turns.loop)
        try:
            call, runs = separate(self.consumer.app(scope, watcher.receive, tracked), task)
            if is_own:
                watcher.watch(runs)
            try:
                await call
            except (asyncio.CancelledError, StandIn) as error:
                if not watcher.has_cancelled(error):
                    raise
            finally:
                if not ended:
                    watcher.stop()
                if not watcher.idle:
                    await watcher.end()
            if not ended:
                if not await watcher.has_left():
                    raise RuntimeError(
                        f"{self.consumer} returned {'before the end of' if started else 'without'}"
                        " its response"
                    )
                if not started:
                    await answer_nobody(scope, send)
        except BaseException as raised:
            error = _alone(caught(raised, task))
            if isinstance(error, _ClientGone) and not started:
                log.debug("The client of %s had left: %s", self.consumer, Shown(error))
                await answer_nobody(scope, send)
            elif isinstance(error, _ClientGone) or (
                isinstance(error, OSError) and _was_raised_by(send, sending, error)
            ):
                log.debug("The client of %s had left: %s", self.consumer, Shown(error))
            elif isinstance(error, HTTPException) and not started:
                await _answer(scope, send, *self._rendered(error))
            elif ended:
                report = partial(
                    log.error, "%s failed after its response", self.consumer, exc_info=error
                )
                context_of(error).run(report)
            else:
                await fail(scope, send, started, error)

    def _rendered(self, response: HTTPException) -> tuple[Any, ...]:
        # What was raised may be a response that cannot be sent, or made.
        try:
            return rendered(response)
        except Exception:
            log.exception("%s raised a response that cannot be sent", self.consumer)
            return (500,)

    async def _admitted(
        self,
        scope: dict[str, Any],
        early: EarlyEvents,
        refuse: Callable[..., Awaitable[None]],
    ) -> Headers | None:
        # Completes the scope and returns the headers that the consumer's answer gets besides its
        # own; or refuses, and returns None.
        try:
            left = early.left
            if not quirks.served_by(scope, None).tells_who_left_early or waits_for_leave(scope):
                left = None
            outcome = await self.handshakes.admit(self.consumer, scope, left)
        except ClientDisconnected as error:
            log.debug("No handshake to %s: %s", self.consumer, Shown(error))
            # Nobody gets this, but servers log a connection that was not answered.
            await refuse(503)
            return None
        except BadRequest as error:
            log.info("400 for a handshake to %s: %s", self.consumer, Shown(error))
            await refuse(400)
            return None
        if isinstance(outcome, Refusal):
            log.info("%d for a handshake to %s: Pyramid's answer", outcome.status, self.consumer)
            await refuse(outcome.status, outcome.headers, outcome.body)
            return None
        scope["pyramid.request"] = outcome.request
        scope["pyramid.context"] = outcome.context
        scope["pyramid.userid"] = outcome.userid
        scope[ADMISSION] = outcome
        return outcome.headers

    def _turns(self, loop: asyncio.AbstractEventLoop | None) -> Turns:
        # An application may serve on several event loops. To ask which one runs is dear.
        if loop is None:
            loop = asyncio.get_running_loop()
        turns = self._known_turns
        if turns is None or turns.loop is not loop:
            turns = self._known_turns = Turns()
            self._sweep = Sweep()
        return turns


_BYTES = (bytes, bytearray, memoryview)

# The messages that carry a body, or its rest: also those of extensions (ASGI, Zero Copy Send and
# Path Send).
_BODIES = frozenset(("http.response.body", "http.response.zerocopysend", "http.response.pathsend"))


class _ClientGone(ClientDisconnected):
    """What the consumer's ``send`` raises where the server's does not."""


async def _gone(message: dict[str, Any]) -> None:
    # Who goes on for all that does not keep others from their turn, or its end.
    await asyncio.sleep(0)
    raise _ClientGone("The client has left")


def _alone(error: Exception) -> Exception:
    # A task group (PEP 654, or its backport) wraps what its tasks raise; of those that talk to a
    # client that has left, each may raise that.
    while hasattr(error, "derive") and (
        len(error.exceptions) == 1 or error.split(WebSocketDisconnect)[1] is None
    ):
        error = error.exceptions[0]
    return error


def _was_raised_by(send: Any, sending: Any, error: OSError) -> bool:
    # An OSError of the consumer's own (a database that is down) must not pass for a client that
    # left. Wrapping send in a coroutine would tell them apart at a price for every message; the
    # traceback tells it for nothing. What middleware has made of send may be any callable: there
    # it is the coroutine that it returned last, ``sending``.
    codes = [getattr(send, "__code__", None), getattr(sending, "cr_code", None)]
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in codes:
            return True
        traceback = traceback.tb_next
    return False


def _merged(own: Any, pyramids: Headers) -> Headers:
    # What the consumer says itself holds; cookies are all set.
    own = list(own or ())
    names = {name.lower() for name, _ in own} - {b"set-cookie"}
    return own + [header for header in pyramids if header[0] not in names]


async def _answer(
    scope: dict[str, Any], send: Any, status: int, headers: Headers | None = None, body: bytes = b""
) -> None:
    if headers is None:
        return await refuse(scope, send, status)
    with contextlib.suppress(OSError):
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
