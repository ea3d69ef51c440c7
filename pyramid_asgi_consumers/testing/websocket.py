"""The client's end of a websocket: what a test sends, receives and closes, in its own thread.

``TestApp.websocket()``, in ``application.py``, makes the request, starts the call of the
application and ends it; between the two, :class:`TestWebSocket` is what the test has.
"""

import json
from typing import Any, TypeVar

import webtest
from webob.headers import ResponseHeaders
from webtest import utils

from pyramid_asgi_consumers.exceptions import WebSocketDenied, WebSocketDisconnect
from pyramid_asgi_consumers.testing import timeouts
from pyramid_asgi_consumers.testing.call import Call

_Kind = TypeVar("_Kind", str, bytes)


def opened(testapp: webtest.TestApp, call: Call, request: Any) -> "TestWebSocket":
    """The websocket that ``call``, which runs, answers the handshake ``request`` with.

    Raises :class:`.WebSocketDenied` where it is refused, TimeoutError where nothing comes.
    """
    websocket = TestWebSocket(testapp, call)
    websocket._open(request)
    return websocket


class TestWebSocket:
    """The client's end of a websocket, which :meth:`TestApp.websocket` has opened.

    A test sees what a client sees. A consumer that raises is logged and closes with the code 1011:
    that is what its clients live with and what can be asserted. So it is not raised in the test,
    but it is the ``__cause__`` of the :class:`.WebSocketDisconnect`, or of the
    :class:`.WebSocketDenied`, that is.
    """

    # Not for pytest to collect.
    __test__ = False

    def __init__(self, testapp: webtest.TestApp, call: Call) -> None:
        self.testapp = testapp
        self._call = call
        self._connection = call.connection
        #: The one of the offered subprotocols that the consumer chose, or None.
        self.accepted_subprotocol: str | None = None
        #: Those that came with the accept.
        self.headers = ResponseHeaders()
        #: None until the test has closed it or has received the consumer's close.
        self.close_code: int | None = None
        self.close_reason = ""

    def send(self, data: str | bytes) -> None:
        """Send a text or a binary message; RuntimeError once the websocket is closed."""
        if not isinstance(data, str | bytes):
            raise TypeError(f"A message must be str or bytes, not {data!r}")
        if self.close_code is not None:
            raise RuntimeError(f"The websocket is closed with the code {self.close_code}")
        kind = "text" if isinstance(data, str) else "bytes"
        self._connection.deliver({"type": "websocket.receive", kind: data})

    def send_text(self, text: str) -> None:
        """Send a text message."""
        if not isinstance(text, str):
            raise TypeError(f"A text message must be str, not {text!r}")
        self.send(text)

    def send_bytes(self, data: bytes) -> None:
        """Send a binary message."""
        if not isinstance(data, bytes):
            raise TypeError(f"A binary message must be bytes, not {data!r}")
        self.send(data)

    def send_json(self, data: Any) -> None:
        """Send ``data`` as JSON, in a text message."""
        self.send(json.dumps(data, cls=self.testapp.JSONEncoder))

    def receive(self, timeout: float = timeouts.TIMEOUT) -> str | bytes:
        """Return the next message, waiting at most ``timeout`` seconds.

        Raises :class:`.WebSocketDisconnect` where the consumer has closed instead, TimeoutError
        where nothing comes. The time that views take in this thread does not count.
        """
        message = self._next(timeout, "a message")
        if message["type"] == "websocket.close":
            self.close_code, self.close_reason = self._connection.closed
            raise WebSocketDisconnect(*self._connection.closed) from self._call.error
        text: str | None = message.get("text")
        if text is not None:
            return text
        data: bytes = message["bytes"]
        return data

    def receive_text(self, timeout: float = timeouts.TIMEOUT) -> str:
        """:meth:`receive` a text message; ValueError for a binary one."""
        return _of_kind(str, self.receive(timeout))

    def receive_bytes(self, timeout: float = timeouts.TIMEOUT) -> bytes:
        """:meth:`receive` a binary message; ValueError for a text."""
        return _of_kind(bytes, self.receive(timeout))

    def receive_json(self, timeout: float = timeouts.TIMEOUT) -> Any:
        """:meth:`receive` a message and parse it as JSON; ValueError where it is none."""
        return json.loads(self.receive(timeout))

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the websocket, unless it is closed, and wait for the consumer to end.

        ``code`` and ``reason`` are what the consumer is told. Messages that were sent before are
        still the consumer's to receive, and what it sends can still be received. Raises
        TimeoutError where it does not end within 5 seconds and ``asgi.leave_timeout``.
        """
        self._connection.leave(code, reason)
        self._call.wait_for_end("The consumer", "the websocket was closed")
        self.close_code, self.close_reason = self._connection.closed

    def _open(self, request: Any) -> None:
        message = self._next(timeouts.TIMEOUT, "the answer to the handshake")
        accepted = message["type"] == "websocket.accept"
        status = 101 if accepted else message.get("status", 403)
        details = self._call.details
        response = request.ResponseClass(
            status=details.status_line(status), headerlist=details.header_list(message)
        )
        if message["type"] == "websocket.http.response.start":
            more = True
            while more:
                message = self._next(timeouts.TIMEOUT, "the rest of a denial")
                response.body += message.get("body", b"")
                more = message.get("more_body", False)
        self.testapp.cookiejar.extract_cookies(
            utils._ResponseCookieAdapter(response), utils._RequestCookieAdapter(request)
        )
        if not accepted:
            response.request = request
            response.test_app = self.testapp
            raise WebSocketDenied(response) from self._call.error
        self.headers = response.headers
        self.accepted_subprotocol = message.get("subprotocol")

    def _next(self, timeout: float, waited_for: str) -> dict[str, Any]:
        call, sent = self._call, self._connection.sent
        if not call.thread.wait(lambda: sent or call.done, timeout):
            raise TimeoutError(
                f"Waited {timeout} s for {waited_for} from {call.scope['path']}: nothing came"
            )
        return sent.popleft() if sent else {"type": "websocket.close"}


def _of_kind(kind: type[_Kind], data: object) -> _Kind:
    if not isinstance(data, kind):
        raise ValueError(f"Expected a message of {kind.__name__}, not {data!r}")
    return data
