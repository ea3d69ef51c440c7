"""One call of the application, from its start in the thread of a test to its end.

:class:`Call` holds together what belongs to it: its task on the event loop, its ``connection``
(``receive`` and ``send``, in ``connection.py``), its ``details`` (what passes around ASGI, in
``wsgi.py``) and what was raised. :data:`current_call` is how the parts of the application that
``watched.py`` and ``threads.py`` put in the place of its own find it.
"""

import asyncio
import contextvars
from collections.abc import Coroutine, Iterable
from typing import Any

from pyramid_asgi_consumers.async_views import until_done
from pyramid_asgi_consumers.handshake.handshakes import current_handshakes
from pyramid_asgi_consumers.raised import caught, original
from pyramid_asgi_consumers.testing import timeouts
from pyramid_asgi_consumers.testing.connection import Connection, Message
from pyramid_asgi_consumers.testing.loop import LoopThread
from pyramid_asgi_consumers.testing.wsgi import WSGIDetails


class Call:
    """A call of ``app``, which is made by a thread of a test and runs on the loop of ``thread``.

    ``environ`` is that of the test's request, from which ``scope`` was made; ``waiting`` is what
    the application receives at first. :meth:`serve` runs on the loop; the other methods are for the
    thread of the test.
    """

    task: "asyncio.Task[Any]"

    def __init__(
        self,
        app: Any,
        thread: LoopThread,
        scope: dict[str, Any],
        environ: dict[str, Any],
        waiting: Iterable[Message] = (),
    ) -> None:
        self.app = app
        self.thread = thread
        self.scope = scope
        self.connection = Connection(thread, scope, waiting)
        self.details = WSGIDetails(environ)
        #: What is to run in the thread of the test.
        self.jobs = thread.jobs()
        #: What its view, or its consumer once that runs, has raised.
        self.error: BaseException | None = None
        #: Whether a consumer runs, or has run.
        self.in_consumer = False
        #: Whether its view's event stream was given up, since it did not end.
        self.is_endless = False
        self.done = False

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run ``coroutine``, in the context of the test's thread."""

        def create() -> None:
            current_call.set(self)
            current_handshakes.set(self.app.handshakes)
            until_done.set(self.thread.wait_for)
            self.task = self.thread.loop.create_task(coroutine)
            self.task.add_done_callback(lambda task: self.thread.tell(self._set_done))

        self.thread.loop.call_soon_threadsafe(create)

    def cancel(self) -> None:
        """Cancel it, unless it has ended, and wait until it has."""
        if not self.done:
            self.thread.loop.call_soon_threadsafe(lambda: self.task.cancel())
            self.thread.wait(lambda: self.done, timeouts.TIMEOUT)

    def wait_for_end(self, who: str, after: str) -> None:
        """Wait for it to end ``after`` its client has left, as long as an application may take.

        Raises TimeoutError, with ``who`` it is that goes on.
        """
        # A function that goes on is cancelled, as on a server.
        timeout = timeouts.TIMEOUT + self.app.leave_timeout
        if not self.thread.wait(lambda: self.done, timeout):
            raise TimeoutError(
                f"{who} of {self.scope['path']} did not end within {timeout:g} s after {after}; it"
                f" is at {self.task!r}"
            )

    async def serve(self) -> None:
        """Call the application; what it raises is in ``error`` then."""
        try:
            await self.app(self.scope, self.connection.receive, self.connection.send)
            self.connection.check_end()
        except BaseException as error:
            self.error = self.error or original(caught(error, self.task))

    def _set_done(self) -> None:
        self.done = True


#: The one that the running task, or job, belongs to.
current_call: contextvars.ContextVar[Call] = contextvars.ContextVar("call")
