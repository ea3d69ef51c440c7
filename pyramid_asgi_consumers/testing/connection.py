"""The connection between a test and its application: ``receive`` and ``send`` as a server has them.

The application calls :meth:`Connection.receive` and :meth:`Connection.send` on the event loop. The
test, in its own thread, delivers messages, leaves, and looks at what was sent while it waits
(:meth:`.LoopThread.wait`). Which messages are right is in ``messages.py``.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from pyramid_asgi_consumers.exceptions import ClientDisconnected
from pyramid_asgi_consumers.testing import messages, timeouts
from pyramid_asgi_consumers.testing.loop import LoopThread
from pyramid_asgi_consumers.wsgi.threads import call_soon

Message = dict[str, Any]


class Connection:
    """Receives ``waiting`` at first, and then what the test delivers."""

    def __init__(
        self, thread: LoopThread, scope: Mapping[str, Any], waiting: Iterable[Message]
    ) -> None:
        self.thread = thread
        self.scope = scope
        #: What the application has sent, and the test has not taken yet.
        self.sent: deque[Message] = deque()
        #: Whether the response is an event stream.
        self.streams = False
        #: Code and reason of a websocket's close, the first of the two sides'.
        self.closed = (1006, "")
        self._waiting = deque(waiting)
        self._arrived = asyncio.Event()
        # What there is to receive, as often as asked for, once the client has left.
        self._farewell: Message | None = None
        # The loop's time from which sending fails.
        self._gone_at = math.inf
        self._expected = messages.first(scope)
        # The bytes of a body that wait for the test, which sending waits for from some size on.
        self._most = math.inf
        self._unread = 0
        self._taken = asyncio.Event()

    # For the test's thread.

    def hold_back(self, most: float) -> float:
        """Have sending wait while more than ``most`` bytes wait for the test, as servers do.

        Returns what it was before.
        """
        before, self._most = self._most, most
        return before

    def take(self) -> Message:
        """The first message that waits for the test."""
        message = self.sent.popleft()
        if self._most < math.inf:
            # What has come can be taken when the loop has ended, too.
            call_soon(self.thread.loop, self._note_taken, len(message.get("body", b"")))
        return message

    def deliver(self, message: Message) -> None:
        """Let the application receive ``message``."""
        self.thread.loop.call_soon_threadsafe(self._deliver, message)

    def leave(self, code: int = 1006, reason: str = "") -> None:
        """Let the application see that the client has left, unless it has ended the connection.

        A websocket's says why.
        """
        self.thread.loop.call_soon_threadsafe(self._leave, code, reason)

    # For the loop's thread.

    async def receive(self) -> Message:
        while not self._waiting:
            if self._farewell is not None:
                self._gone_at = 0
                return self._farewell
            self._arrived.clear()
            await self._arrived.wait()
        if self._gone_at:
            self._gone_at = max(self._gone_at, self.thread.loop.time() + timeouts.GRACE)
        return self._waiting.popleft()

    async def send(self, message: Message) -> None:
        messages.check(message, self._expected, self._named)
        if self.thread.loop.time() >= self._gone_at:
            raise ClientDisconnected("The client has left")
        self._expected = messages.after(message, self._expected)
        if messages.ends_response(message):
            self._farewell = {"type": "http.disconnect"}
            self._arrived.set()
        if message["type"] == "websocket.close":
            self._leave(message.get("code", 1000), message.get("reason") or "")
        self.thread.tell(self._note_sent, message)
        self._unread += len(message.get("body", b""))
        while self._unread > self._most and self._farewell is None:
            self._taken.clear()
            await self._taken.wait()

    def check_end(self) -> None:
        """Raise RuntimeError where a response has no end, and somebody waits for it."""
        if self.scope["type"] == "http" and self._expected and self._gone_at:
            raise RuntimeError(
                f"{self._named}: the application returned before the end of its response; a"
                ' consumer sends "http.response.start", and "http.response.body" until one has no'
                " more_body"
            )

    @property
    def _named(self) -> str:
        """Whose connection it is, for error messages."""
        return f"{self.scope['type']} {self.scope['path']}"

    def _deliver(self, message: Message) -> None:
        self._waiting.append(message)
        self._arrived.set()

    def _note_sent(self, message: Message) -> None:
        self.sent.append(message)
        self.streams = self.streams or messages.starts_stream(message)

    def _note_taken(self, size: int) -> None:
        self._unread -= size
        self._taken.set()

    def _leave(self, code: int, reason: str) -> None:
        if self._farewell is not None:
            return
        if self.scope["type"] == "websocket":
            self.closed = (code, reason)
            self._farewell = {"type": "websocket.disconnect", "code": code, "reason": reason}
            self._gone_at = self.thread.loop.time() + timeouts.GRACE
        else:
            self._farewell = {"type": "http.disconnect"}
            self._gone_at = 0
        self._arrived.set()
        self._taken.set()
