"""What a function of ``add_websocket`` gets, and the ASGI application that is made of the function.

:class:`WebSocket` is public: functions use it, and plain consumers may. :class:`WebSocketFunction`
is the application.
"""

import asyncio
import inspect
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

from pyramid.response import Response
from webob import Response as WebObResponse

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.channels.envelopes import start_of
from pyramid_asgi_consumers.channels.events import Event, Gap, Item
from pyramid_asgi_consumers.channels.relay import Relay
from pyramid_asgi_consumers.channels.subscriptions import Subscription
from pyramid_asgi_consumers.exceptions import InvalidJSON, WebSocketDisconnect, WrongMessageKind
from pyramid_asgi_consumers.handshake.connected import (
    CONNECTION,
    DEFAULT_LEAVE_TIMEOUT,
    LEAVE_TIMEOUT,
    Connected,
)
from pyramid_asgi_consumers.refusal import refuse, rendered
from pyramid_asgi_consumers.shown import Shown
from pyramid_asgi_consumers.websocket.watcher import Event as Message
from pyramid_asgi_consumers.websocket.watcher import Watcher
from pyramid_asgi_consumers.wsgi.environ import subprotocols

log = logging.getLogger(__name__)

CONNECTING, OPEN, CLOSED = "connecting", "open", "closed"

# What a server's send raises when the client has left: OSError (ASGI, Send), but Uvicorn 0.54 also
# RuntimeError, where it has closed the websocket itself, say after a message that is too long.
GONE = (OSError, RuntimeError)

# RFC 9110 section 5: a name is a token; a value has no line breaks.
_NAME = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[^\0\r\n]*")


class WebSocket(Connected):
    """A websocket; ``scope``, ``receive`` and ``send`` are what an ASGI application gets.

    ``receive`` has not been called yet: :meth:`accept` waits for ``websocket.connect`` (ASGI,
    Connection Scope of WebSocket).

    Every method that talks to the client raises :class:`.WebSocketDisconnect` once it has left.
    """

    called = "websocket"

    def __init__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self.scope = scope
        self._send = send
        self._watcher = Watcher(receive)
        self._state = CONNECTING
        self._connected = False
        self._left = False
        # The close code and the reason, when it is closed.
        self._end = (1006, "")

    # What the handshake said.

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, the one it likes best first."""
        return subprotocols(self.scope)

    # The handshake's answer.

    async def accept(
        self,
        subprotocol: str | None = None,
        headers: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (),
    ) -> None:
        """Open the websocket.

        ``subprotocol`` is one of those that the client offers. ``headers`` are pairs, or a mapping,
        of names and values, str (latin-1) or bytes, that go out with the handshake's response.

        Raises ValueError or TypeError for arguments that cannot be sent, RuntimeError where the
        handshake has been answered already. RFC 6455 section 4.2.2.
        """
        await self._must_be_connecting("accept")
        if subprotocol is not None and subprotocol not in self.subprotocols:
            raise ValueError(
                f"accept: subprotocol must be one that the client offers, {self.subprotocols!r},"
                f" not {subprotocol!r}"
            )
        event = {
            "type": "websocket.accept",
            "subprotocol": subprotocol,
            "headers": _encoded(headers),
        }
        await self._connect()
        try:
            server = quirks.served_by(self.scope, self._send)
            await self._send(server.accept(self.scope, event))
        except GONE as error:
            raise self._disconnect({"code": 1006}) from error
        self._state = OPEN

    async def deny(self, response: Response) -> None:
        """Refuse the websocket with ``response``, a Pyramid or WebOb response or HTTP exception.

        Status, headers and body reach the client where the server can send them; else it is 403.
        Raises RuntimeError where the handshake has been answered already, and
        :class:`.WSGIError`, which is one, for headers that cannot be sent: control characters, text
        that is not latin-1, or those between client and server (RFC 2616 section 13.5.1).
        """
        await self._must_be_connecting("deny")
        if not isinstance(response, WebObResponse):
            raise TypeError(
                f"deny: response must be a Pyramid response or HTTP exception, not {response!r}"
            )
        answer = rendered(response)
        await self._connect()
        self._closed(1006, "")
        await refuse(self.scope, self._send, *answer)

    async def _connect(self) -> None:
        if not self._connected:
            event = await self._watcher.receive()
            self._connected = True
            if event["type"] == "websocket.disconnect":
                raise self._disconnect(event)

    async def _must_be_connecting(self, action: str) -> None:
        if self._state is not CONNECTING:
            await _turn()
            if self._left:
                raise WebSocketDisconnect(*self._end)
            raise RuntimeError(
                f"{action}: the handshake has been answered, the websocket is {self._state}"
            )

    # Messages.

    async def receive(self) -> str | bytes:
        """Return the next message, text as str and binary as bytes.

        A call that is cancelled, as by ``asyncio.timeout``, loses none. Raises WebSocketDisconnect
        when the client has left, or after :meth:`close`; RuntimeError before :meth:`accept` and
        while another task receives.
        """
        if self._state is not OPEN:
            raise await self._not_receiving()
        event = await self._watcher.receive()
        text = event.get("text")
        return self._not_text(event) if text is None else text

    async def receive_text(self) -> str:
        """Return the next message, which must be text.

        Raises :class:`.WrongMessageKind`, a ValueError, for a binary one. Where the consumer does
        not catch it the websocket is closed with 1003.
        """
        message = await self.receive()
        if isinstance(message, str):
            return message
        raise WrongMessageKind("The client sent a binary message where text was expected")

    async def receive_bytes(self) -> bytes:
        """Return the next message, which must be binary.

        Raises :class:`.WrongMessageKind`, a ValueError, for a text. Where the consumer does not
        catch it the websocket is closed with 1003.
        """
        message = await self.receive()
        if isinstance(message, str):
            raise WrongMessageKind("The client sent text where a binary message was expected")
        return message

    async def receive_json(self) -> Any:
        """Return what the next message, which must be text, says in JSON (RFC 8259).

        Raises :class:`.InvalidJSON`, a ValueError, where it does not parse. Where the consumer does
        not catch it the websocket is closed with 1007; see also :meth:`receive_text`.
        """
        text = await self.receive_text()
        try:
            return json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise InvalidJSON(f"The client sent what is not JSON: {Shown(error)}") from error

    async def send(self, message: str | bytes) -> None:
        """Send a text (str) or a binary (bytes) message; returns when the server has taken it.

        Raises TypeError for any other object, RuntimeError before :meth:`accept` and after
        :meth:`close`.
        """
        if isinstance(message, str):
            event: Message = {"type": "websocket.send", "text": message}
        elif isinstance(message, (bytes, bytearray, memoryview)):
            event = {"type": "websocket.send", "bytes": bytes(message)}
        else:
            raise TypeError(f"send: message must be str or bytes, not {message!r}")
        if self._state is not OPEN:
            raise await self._not_open()
        try:
            await self._send(event)
        except GONE as error:
            raise self._disconnect({"code": 1006}) from error

    async def send_text(self, text: str) -> None:
        """Send a text message. Raises TypeError for what is not str; see :meth:`send`."""
        if not isinstance(text, str):
            raise TypeError(f"send_text: text must be str, not {text!r}")
        await self.send(text)

    async def send_bytes(self, data: bytes) -> None:
        """Send a binary message. Raises TypeError for what is not bytes; see :meth:`send`."""
        if isinstance(data, str):
            raise TypeError(f"send_bytes: data must be bytes, not {data!r}")
        await self.send(data)

    async def send_json(self, value: Any) -> None:
        """Send ``value`` as JSON, in a text message.

        Raises TypeError or ValueError for what JSON cannot carry; see :meth:`send`.
        """
        await self.send(json.dumps(value, allow_nan=False, separators=(",", ":")))

    def __aiter__(self) -> "WebSocket":
        return self

    async def __anext__(self) -> str | bytes:
        # As receive() does: awaiting that for each message would show in a benchmark.
        try:
            if self._state is not OPEN:
                raise await self._not_receiving()
            event = await self._watcher.receive()
            text = event.get("text")
            return self._not_text(event) if text is None else text
        except WebSocketDisconnect:
            raise StopAsyncIteration from None

    async def _not_receiving(self) -> Exception:
        await _turn()
        if self._state is CLOSED:
            return WebSocketDisconnect(*self._end)
        return RuntimeError("receive: the websocket is not open yet: await accept() first")

    def _not_text(self, event: Message) -> bytes:
        if event["type"] == "websocket.disconnect":
            raise self._disconnect(event)
        # Either of text and bytes may be absent or None (ASGI, Receive).
        return event["bytes"]

    async def _not_open(self) -> Exception:
        await _turn()
        if self._left:
            return WebSocketDisconnect(*self._end)
        if self._state is CONNECTING:
            return RuntimeError("send: the websocket is not open yet: await accept() first")
        return RuntimeError("send: the websocket is closed")

    # The end.

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the websocket; before :meth:`accept`, refuse it with 403.

        ``code`` is 1000 or another code that may be sent (RFC 6455 section 7.4), ``reason`` a text
        of at most 123 bytes in UTF-8. Where it is closed already, nothing happens.

        Raises ValueError for a code or reason that cannot be sent.
        """
        if not any(code in codes for codes in _CODES):
            raise ValueError(
                f"close: code must be one of 1000 to 1003, 1007 to 1014, 3000 to 4999, not {code!r}"
            )
        if len(reason.encode()) > 123:
            raise ValueError(f"close: reason must have at most 123 bytes, not {reason!r}")
        if self._state is CONNECTING:
            await self._connect()
            self._closed(1006, "")
            await refuse(self.scope, self._send, 403)
        elif self._state is OPEN:
            self._closed(code, reason)
            try:
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
            except GONE as error:
                # The client was faster.
                log.debug("The client had left: %s", Shown(error))
        else:
            await _turn()

    async def wait_closed(self) -> None:
        """Wait until the client leaves; what it sends until then is discarded."""
        async for _ in self:
            pass

    def _disconnect(self, event: Message) -> WebSocketDisconnect:
        self._left = True
        self._closed(int(event.get("code") or 1005), event.get("reason") or "")
        self._watcher.told()
        return WebSocketDisconnect(*self._end)

    def _closed(self, code: int, reason: str) -> None:
        self._state = CLOSED
        self._end = (code, reason)
        self._watcher.stop()

    # Channels.

    def relay(
        self,
        *names: str,
        envelope: bool = False,
        on_gap: Callable[[Gap], Any] | None = None,
        **subscribe_options: Any,
    ) -> Relay:
        """Forward what is published on these channels: ``async with websocket.relay("news"):``.

        That is done while the body runs; ``subscribe_options`` are those of
        :meth:`.Channels.subscribe`. Bytes are sent as binary messages, all other data as JSON in
        text messages. What the client sends is the body's to receive: one that does not awaits
        :meth:`wait_closed`.

        With ``envelope`` each message is JSON text from which a page can resume: ``{"channel",
        "id", "data"}``, with ``"base64"`` in place of ``"data"`` for bytes. At the start there is
        ``{"channel", "id"}`` for each channel, with the id at which it begins, and where events are
        missing ``{"channel", "id", "gap"}`` with their number; id and number are null where nobody
        knows them. The page sends the last ids back for ``since``.

        Where events are missing, ``on_gap(gap)`` is called, and awaited if it is async. Without
        ``envelope`` and ``on_gap`` nobody hears of a gap.

        Where the client has left, the subscription has overflowed or ``on_gap`` raises, the body is
        cancelled and :class:`.WebSocketDisconnect`, :class:`.SubscriptionOverflow` or that error
        raised. TypeError for an ``on_gap`` that cannot be called.
        """
        if on_gap is not None and not callable(on_gap):
            raise TypeError(f"relay: on_gap must be a function of a Gap, or None, not {on_gap!r}")
        channels = self.channels
        subscription = channels.subscribe(*names, **subscribe_options)

        async def begin(subscription: Subscription) -> None:
            if envelope:
                for name in subscription.channels:
                    await self.send(start_of(name, subscription.positions.get(name)))

        async def forward(item: Item) -> None:
            if envelope or isinstance(item, Event):
                message = messages.of(item)
                await self.send(message.get("text") or message["bytes"])
            if on_gap is not None and isinstance(item, Gap):
                heard = on_gap(item)
                if inspect.isawaitable(heard):
                    await heard

        messages = channels.envelopes if envelope else channels.messages
        send_at_once: Any = self.scope.get(quirks.AT_ONCE)

        def at_once(item: Item) -> bool:
            if self._state is not OPEN or isinstance(item, Gap):
                return False
            try:
                return send_at_once(messages.of(item))
            except Exception:
                # It is raised again where the relay is heard: who publishes has no part in it.
                return False

        return Relay(
            subscription, begin, forward, at_once=None if send_at_once is None else at_once
        )


class WebSocketFunction:
    """An ASGI application that awaits ``func(websocket)``; ``declared`` is its name, for logs.

    Where ``func`` returns, the websocket is closed. Where the client leaves while ``func`` does not
    receive, ``func`` is cancelled within a second. Where it goes on although it has heard that the
    client has left, it is cancelled after the seconds that ``asgi.leave_timeout`` says; where it
    has closed the websocket itself, it may go on as long as it likes.
    """

    # What errors of its declaration say.
    directive = "add_websocket"
    protocol = "websocket"
    takes = "websocket"
    sends_json = "websocket.send_json()"

    #: It looks after its client itself: see :class:`.SenderWatcher`.
    watches = True
    #: The scope is to have :data:`.quirks.AT_ONCE`.
    sends_at_once = True

    def __init__(self, func: Callable[[WebSocket], Awaitable[object]], declared: str) -> None:
        self.func = func
        self.declared = declared

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        connection = scope.get(CONNECTION)
        if connection is not None:
            connection.ends = websocket._watcher.closed
        await websocket._connect()
        await websocket._watcher.run(
            partial(self.func, websocket),
            websocket._disconnect,
            self.declared,
            scope.get(LEAVE_TIMEOUT, DEFAULT_LEAVE_TIMEOUT),
        )
        if websocket._left:
            raise WebSocketDisconnect(*websocket._end)
        if websocket._state is CONNECTING:
            log.warning("%s returned without accept(): the client gets 403", self.declared)


_CODES = range(1000, 1004), range(1007, 1015), range(3000, 5000)


async def _turn() -> None:
    # A function that tries again and again on a closed websocket must still let other tasks run,
    # and be cancelled.
    await asyncio.sleep(0)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a value")


def _encoded(headers: Any) -> list[tuple[bytes, bytes]]:
    if isinstance(headers, Mapping):
        headers = headers.items()
    encoded = []
    for header in headers:
        try:
            name, value = (
                part.encode("latin-1") if isinstance(part, str) else bytes(memoryview(part))
                for part in header
            )
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"accept: headers must be pairs of str (latin-1) or bytes, not {header!r}"
            ) from error
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"accept: headers must be names and values of HTTP, not {header!r}")
        if name.lower() == b"sec-websocket-protocol":
            raise ValueError(f"accept: {header!r} is what the argument subprotocol is for")
        encoded.append((name.lower(), value))
    return encoded
