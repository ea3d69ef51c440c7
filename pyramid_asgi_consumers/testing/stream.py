"""The client's end of an event stream: what a test receives, in its own thread.

``TestApp.stream()``, in ``application.py``, makes the request, starts the call of the application
and ends it; between the two, :class:`TestStream` is what the test has. ``events.py`` reads what
comes.
"""

import asyncio
import json
from typing import Any, cast

import webtest
from webob.headers import ResponseHeaders
from webtest import utils

from pyramid_asgi_consumers.exceptions import ClientDisconnected, StreamEnded, StreamRefused
from pyramid_asgi_consumers.shown import Shown
from pyramid_asgi_consumers.testing import messages, timeouts
from pyramid_asgi_consumers.testing.call import Call
from pyramid_asgi_consumers.testing.connection import Message
from pyramid_asgi_consumers.testing.events import EventParser, ServerSentEvent

_NO_ANSWER: Message = {"type": "http.response.start", "status": 500}


def opened(testapp: webtest.TestApp, call: Call, request: Any, last_event_id: str) -> "TestStream":
    """The stream that ``call``, which runs, answers ``request`` with.

    It goes on after the event with the id ``last_event_id``. Raises :class:`.StreamRefused` where
    it is none, TimeoutError where nothing comes, and what the application raises before it answers.
    """
    stream = TestStream(call, last_event_id)
    stream._open(testapp, request)
    return stream


class TestStream:
    """The client's end of an event stream, which :meth:`TestApp.stream` has opened.

    A test sees what a browser's ``EventSource`` dispatches. What ends the stream in the application
    is the ``__cause__`` of the :class:`.StreamEnded` that is raised then.
    """

    # Not for pytest to collect.
    __test__ = False

    def __init__(self, call: Call, last_event_id: str) -> None:
        self._call = call
        self._connection = call.connection
        self._parser = EventParser(last_event_id)
        self._has_ended = False
        self._has_left = False
        # The last event that was received, and how many were.
        self._last: ServerSentEvent | None = None
        self._received = 0
        #: As WebTest's responses have them: "200 OK", and the number.
        self.status, self.status_int = "", 0
        self.headers = ResponseHeaders()

    @property
    def last_event_id(self) -> str:
        """The last event id of what was received so far, an empty string where there is none.

        A browser that comes back sends it as ``Last-Event-ID``. Ids that have come since the last
        event and belong to none count, too.
        """
        self._has_come()
        return self._parser.last_event_id

    def receive(self, timeout: float = timeouts.TIMEOUT) -> ServerSentEvent:
        """Return the next event, waiting at most ``timeout`` seconds.

        Raises :class:`.StreamEnded` where the stream has ended instead, TimeoutError where nothing
        comes. The time that views take in this thread does not count.
        """
        call = self._call
        if not call.thread.wait(self._has_come, timeout):
            raise TimeoutError(
                f"Waited {timeout:g} s for an event from {call.scope['path']}; {self._so_far()}"
            )
        event = self._parser.take()
        if event is None:
            raise StreamEnded(
                f"{call.scope['path']} has ended; {self._so_far()}"
            ) from self._cause()
        self._last = event
        self._received += 1
        return event

    def receive_json(self, timeout: float = timeouts.TIMEOUT) -> Any:
        """:meth:`receive` an event and parse its data as JSON; ValueError where it is none."""
        return json.loads(self.receive(timeout).data)

    def close(self) -> None:
        """Leave the stream, unless it has ended, and wait for the application to end.

        Events that have come before can still be received. Raises what the application raises as
        its client leaves, and TimeoutError where it does not end within 5 seconds and
        ``asgi.leave_timeout``.
        """
        was_open = not self._call.done
        self._has_left = self._has_left or was_open
        self._connection.leave()
        self._call.wait_for_end("The stream", "its client has left")
        error = self._cause()
        if was_open and error is not None:
            raise error

    def _open(self, testapp: webtest.TestApp, request: Any) -> None:
        call, sent = self._call, self._connection.sent
        path = call.scope["path"]
        if not call.thread.wait(lambda: sent or call.done, timeouts.TIMEOUT):
            raise TimeoutError(
                f"Waited {timeouts.TIMEOUT:g} s for {path} to answer: nothing came. A stream begins"
                " with the first thing that it sends"
            )
        # What is sent together with the start, such as a first id, is to be there, too.
        call.thread.let_run()
        # What it has raised instead of an answer is raised below.
        start = self._connection.take() if sent else _NO_ANSWER
        headers = call.details.header_list(start)
        response = request.ResponseClass(
            status=call.details.status_line(start["status"]), headerlist=list(headers)
        )
        testapp.cookiejar.extract_cookies(
            utils._ResponseCookieAdapter(response), utils._RequestCookieAdapter(request)
        )
        self.status, self.status_int = response.status, response.status_int
        # Those of the response have a Content-Length, too.
        self.headers.extend(headers)
        if messages.starts_stream(start):
            if call.is_endless:
                raise cast("BaseException", call.error)
            return
        if not call.thread.wait(lambda: self._has_whole(response), timeouts.TIMEOUT):
            raise TimeoutError(
                f"Waited {timeouts.TIMEOUT:g} s for the end of what {path} answers, {self.status},"
                f" {response.content_type}: it is no event stream, and goes on"
            )
        if call.error is not None:
            raise call.error
        response.request = request
        response.test_app = testapp
        raise StreamRefused(response)

    def _has_come(self) -> bool:
        """Whether there is an event to take, or nothing more can come; takes what has come."""
        sent = self._connection.sent
        while not self._parser.is_ready() and sent:
            message = self._connection.take()
            self._parser.feed(message.get("body", b""))
            self._has_ended = not message.get("more_body")
        return self._parser.is_ready() or self._has_ended or self._call.done

    def _has_whole(self, response: Any) -> bool:
        """Whether ``response`` has all of its body; takes what has come."""
        while not self._has_ended and self._connection.sent:
            message = self._connection.take()
            response.body += message.get("body", b"")
            self._has_ended = not message.get("more_body")
        return self._has_ended or self._call.done

    def _cause(self) -> BaseException | None:
        """What has ended the stream, where it was not the test."""
        error = self._call.error
        by_leaving = isinstance(error, ClientDisconnected | asyncio.CancelledError)
        return None if self._has_left and by_leaving else error

    def _so_far(self) -> str:
        """What has come, for error messages."""
        parser = self._parser
        come = [f"{self._received or 'no'} event{'s' * (self._received != 1)}"]
        if self._last is not None:
            come.append(f"the last {Shown(self._last)}")
        if parser.comments:
            come.append(f"{parser.comments} comment{'s' * (parser.comments != 1)}")
        if parser.unfinished:
            come.append(f"what no empty line has ended yet: {Shown(parser.unfinished)}")
        return f"so far came {', '.join(come)}"
