"""What a function of ``add_event_stream`` gets: :class:`EventStream`."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any
from urllib.parse import parse_qs

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.channels.relay import Relay
from pyramid_asgi_consumers.events.encoding import COMMENT, encode_event, encode_retry
from pyramid_asgi_consumers.events.relay import Frames, Relays
from pyramid_asgi_consumers.exceptions import ClientDisconnected
from pyramid_asgi_consumers.handshake.connected import Connected
from pyramid_asgi_consumers.refusal import refuse

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would hold events back until its buffer is full.
    (b"x-accel-buffering", b"no"),
)

Message = dict[str, Any]


class EventStream(Connected):
    """A stream of events to one client (HTML Living Standard, section 9.2).

    ``scope`` and ``send`` are what an ASGI application gets; ``frames`` is shared by all streams;
    after ``heartbeat`` seconds without an event a comment is sent.

    Once the client has left, :meth:`send` raises :class:`.ClientDisconnected`, an ``OSError``.
    """

    called = "stream"

    def __init__(
        self,
        scope: dict[str, Any],
        send: Callable[[Message], Awaitable[None]],
        frames: Frames,
        heartbeat: float,
    ) -> None:
        self.scope = scope
        self._send = send
        self._heartbeat = heartbeat
        self._loop = asyncio.get_running_loop()
        # Whether the response begins, and whether that has been sent.
        self._has_begun = False
        self._ready = False
        # Done when the client has left, as its result says, or when the response is over.
        self._closed: asyncio.Future[bool] = self._loop.create_future()
        self._beginning = asyncio.Lock()
        self._waiting = 0
        self._was_told = False
        # What the server has raised for a client that has left.
        self._refused: Exception | None = None
        self._has_ended = False
        self._relays = Relays(frames)
        self._says_retry = False
        self._sending = 0
        self._last = monotonic()
        self._beating: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(heartbeat, self._beat)

    @property
    def last_event_id(self) -> str | None:
        """The id of the last event that the client saw, None where it says none.

        That is the header ``Last-Event-ID``, which ``EventSource`` sends when it comes again, or
        else the ``last-event-id`` of the query, for who makes a new one. It may be any text.
        """
        for name, value in self.scope["headers"]:
            if name == b"last-event-id" and value:
                # Browsers send it as UTF-8 (HTML, section 9.2.4).
                return value.decode(errors="replace")
        query = self.scope.get("query_string", b"").decode("latin-1")
        given = parse_qs(query, encoding="utf-8").get("last-event-id")
        return given[-1] if given else None

    async def send(
        self,
        data: Any,
        event: str | None = None,
        id: str | None = None,
        retry: int | None = None,
    ) -> None:
        """Send an event with ``data``, a str as it is or all else as its JSON.

        ``event`` is the name by which the page listens for it, ``message`` where there is none;
        ``id`` is what the client sends back as :attr:`last_event_id` when it comes again, a text
        without line breaks; ``retry`` is for how many milliseconds it waits before that. Line
        breaks in a str, CR, LF or both, reach the page as LF. The first event begins the response.

        Waits while the client is slow. Raises TypeError or ValueError for what cannot be sent,
        :class:`.ClientDisconnected` once the client has left, RuntimeError when the stream has
        ended. HTML Living Standard, section 9.2.5.
        """
        await self._write(encode_event(data, event, id, retry))
        if retry is not None:
            self._says_retry = True

    async def _write(self, chunk: bytes) -> None:
        if self._is_over:
            raise await self._not_open()
        self._sending += 1
        try:
            if not self._ready:
                await self._begin()
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        except (OSError, RuntimeError) as error:
            if isinstance(error, OSError) or quirks.is_of_a_closed_transport(error):
                self._was_told = True
                self._leave()
                self._refused = error
                raise ClientDisconnected("The client has left the event stream") from error
            raise
        finally:
            self._sending -= 1
        self._last = monotonic()

    async def _begin(self) -> None:
        """Send the headers, unless they were sent; the function need not, its first event does."""
        async with self._beginning:
            if not self._has_begun:
                self._has_begun = True
                start = {"type": "http.response.start", "status": 200, "headers": list(HEADERS)}
                await self._send(start)
            self._ready = True

    async def _not_open(self) -> Exception:
        # A function that tries again and again must still let others run, and be cancelled.
        await asyncio.sleep(0)
        if self._closed.done() and self._closed.result():
            self._was_told = True
            return ClientDisconnected("The client has left the event stream")
        return RuntimeError("send: the event stream has ended")

    async def wait_closed(self) -> None:
        """Wait until the client leaves, or, in a task that goes on, until the response is over."""
        self._waiting += 1
        try:
            await asyncio.wait({self._closed})
            self._was_told = True
        finally:
            self._waiting -= 1

    def relay(self, *names: str, envelope: bool = False, **subscribe_options: Any) -> Relay:
        """Send what is published on these channels: ``async with stream.relay("news"):``.

        That is done while the body runs. Each event carries in its id where all the channels stand,
        so that a client which comes again goes on there, with ``asgi.channels.history`` without a
        hole and without a repeat. At the start there is such an id without an event. A relay whose
        client sends no id of the same channels begins at ``since``, or now. One of the same
        channels, later in the same stream, goes on where the first was left. An id is no secret: a
        client can make one, and get all of these channels that is still stored.
        ``subscribe_options`` are those of :meth:`.Channels.subscribe`.

        The data is that of the event, as JSON; with several channels, or with ``envelope``, it is
        ``{"channel", "id", "data"}``. For bytes there is ``"base64"`` in place of ``"data"``, or
        of all. Where events are missing, an event named ``gap`` has ``{"channel", "missed"}``, the
        latter null where nobody knows their number.

        Where the client has left, or the subscription has overflowed, the body is cancelled and
        :class:`.ClientDisconnected` or :class:`.SubscriptionOverflow` raised. Raises ValueError for
        more channels than an id can carry, and when it is entered RuntimeError within another relay
        of this stream, since an event has one id.
        """
        return self._relays.make(self, names, envelope, subscribe_options)

    # For who runs the function.

    @property
    def _is_over(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._has_ended or self._closed.done()

    @property
    def _knows(self) -> bool:
        """Whether the function knows, or hears just now, that its client has left."""
        return self._was_told or self._waiting > 0

    def _leave(self) -> None:
        """The client has left."""
        self._close(True)

    def _close(self, has_left: bool) -> None:
        if not self._closed.done():
            self._closed.set_result(has_left)

    async def _finish(self, refusal: int | None = None) -> None:
        """End the response, whole; nothing can be sent afterwards.

        One that has not begun is answered with the status ``refusal``.
        """
        self._has_ended = True
        if refusal is not None and not self._has_begun:
            return await refuse(self.scope, self._send, refusal)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _interrupt(self, retry: int) -> None:
        """End the response so that the client comes again.

        That is after ``retry`` milliseconds, unless the function has said how many. Where the
        response has not begun it does: a 204, or nothing at all, would keep the client away.
        """
        await self._begin()
        if not self._says_retry:
            body = encode_retry(retry)
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        await self._finish()

    def _end(self) -> "asyncio.Task[None] | None":
        """Send no more comments. Returns the task that sends one just now."""
        self._has_ended = True
        self._timer.cancel()
        return self._beating

    def _beat(self) -> None:
        if self._has_ended:
            return
        silent = monotonic() - self._last
        if self._sending:
            silent = 0
        if silent < self._heartbeat:
            self._timer = self._loop.call_later(self._heartbeat - silent, self._beat)
        else:
            self._beating = self._loop.create_task(self._comment())

    async def _comment(self) -> None:
        was_told = self._was_told
        try:
            await self._write(COMMENT)
        except ClientDisconnected:
            # The function does not know yet.
            self._was_told = was_told
        else:
            self._timer = self._loop.call_later(self._heartbeat, self._beat)
