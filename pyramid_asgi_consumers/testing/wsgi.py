"""What passes between a test and a view around ASGI, which has no place for it.

A test with WebTest is one of WSGI: its environ may have keys of its own, what a view puts into the
environ is the test's to see, and a view's status has a reason and its headers a spelling. All that
would be lost in a scope and in messages, so it is kept here for the time of a call.
The scope that is made of the environ is in ``scopes.py``; ``watched.py`` has the WSGI application
use this. Views run in the thread of the test, so all this does, too.
"""

from collections.abc import Callable, Mapping
from typing import Any

from webob.util import status_generic_reasons, status_reasons

from pyramid_asgi_consumers.handshake.exchange import EXCHANGE
from pyramid_asgi_consumers.testing.scopes import DECIDED_BY_SERVER, header_name, sendable

# What is the server's and the application's own.
_STREAMS = frozenset(("wsgi.errors", "wsgi.input"))
_NOTHING = object()


class WSGIDetails:
    """Those of one call; ``environ`` is that of the test's request."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        # The environ of a page, as the view got it and as it is now.
        self._page: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        # What the WSGI application has started its last response with.
        self._status = ""
        self._spelling: dict[str, str] = {}
        #: Whether that is an event stream.
        self.is_event_stream = False

    # To the view.

    def environ_for_view(self, served: Mapping[str, Any]) -> dict[str, Any]:
        """The environ of a Pyramid request: ``served``, by the server, and what the test's says."""
        environ = dict(served)
        if "REMOTE_PORT" not in self.environ:
            environ.pop("REMOTE_PORT", None)
        for key, value in self.environ.items():
            if key in DECIDED_BY_SERVER or (key.startswith("wsgi.") and key in served):
                continue
            # The server may have changed a header, or left it out.
            if header_name(key) is None or not value or served.get(key) == sendable(value):
                environ[key] = value
        if "wsgi.errors" in self.environ:
            environ["wsgi.errors"] = self.environ["wsgi.errors"]
        # A handshake, and what a connection does later, has an environ that the test does not see.
        if EXCHANGE not in environ:
            self._page = dict(environ), environ
        return environ

    # From the view.

    def noting(self, start_response: Callable[..., Any]) -> Callable[..., Any]:
        """``start_response`` for the WSGI application."""

        def start(status: Any, headers: Any, *exc_info: Any) -> Any:
            # WebTest takes bytes.
            status = status.decode("latin-1") if isinstance(status, bytes) else status
            write = start_response(status, headers, *exc_info)
            self._status = status
            self._spelling = {name.lower(): name for name, _ in headers}
            self.is_event_stream = any(
                name.lower() == "content-type" and value.startswith("text/event-stream")
                for name, value in headers
            )
            return write

        return start

    # Back to the test.

    def hand_back(self) -> None:
        """Put into the test's environ what the application has made of a page's, as WSGI does."""
        before, after = self._page
        for key in before.keys() - after.keys():
            self.environ.pop(key, None)
        for key, value in after.items():
            if key not in _STREAMS and value is not before.get(key, _NOTHING):
                self.environ[key] = value

    def status_line(self, status: int) -> str:
        """The status with the reason of the view, where it is the view's."""
        if self._status.startswith(str(status)):
            return self._status
        reason = status_reasons.get(status) or status_generic_reasons.get(status // 100, "Unknown")
        return f"{status} {reason}"

    def header_list(self, message: Mapping[str, Any]) -> list[tuple[str, str]]:
        """The headers of ``message``, with names as a WSGI application writes them."""
        headers = []
        for name, value in message.get("headers") or ():
            name = name.decode("latin-1")
            headers.append((self._spelling.get(name) or name.title(), value.decode("latin-1")))
        return headers
