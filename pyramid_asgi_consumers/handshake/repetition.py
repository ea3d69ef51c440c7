"""A handshake that is made once more, to know whether its connection may stay."""

import asyncio
from collections.abc import Callable
from typing import Any

from pyramid.request import Request

from pyramid_asgi_consumers.handshake.exchange import Exchange
from pyramid_asgi_consumers.handshake.handshakes import Admission
from pyramid_asgi_consumers.wsgi.threads import call_soon

#: Where the environ of such a request says so, for what is to pass over it.
REVALIDATION = "asgi.revalidation"

#: With what connections end that may not stay: a close code and a reason, which says no more.
ANOTHER_USER = (4401, "another user")
# The session may have expired that the connection knows, and not the newer one of its browser.
NOBODY = (4403, "not logged in")
NO_LONGER_PERMITTED = "no longer permitted"


class Repetition:
    """One repetition of the handshake of ``admission``: the same request, with today's cookies.

    The connection learns nothing of it: not the request, and not the cookies that the response
    sets. ``heard(repetition)`` is called at the end on ``loop``, which runs here, unless
    :meth:`cancel` was called. Raises RuntimeError where there is not one thread.
    """

    def __init__(
        self,
        admission: Admission,
        loop: asyncio.AbstractEventLoop,
        heard: Callable[["Repetition"], object],
    ) -> None:
        #: Whether the request has been begun.
        self.has_begun = False
        #: The close code and the reason for a connection that may not stay.
        self.end: tuple[int, str] | None = None
        #: What kept the application from an answer: an error, or the status of its response.
        self.failure: BaseException | int | None = None
        self.exchange = Exchange(admission.route_name, admission.path_params, self._end_of)
        self._admission = admission
        self._loop = loop
        self._heard = heard
        self._is_cancelled = False
        self._withdraw = admission.handshakes.repetitions.submit(self._run)

    def cancel(self) -> None:
        """Have it never begin; or, where it has begun, never be heard of."""
        self._is_cancelled = True
        self._withdraw()

    def _end_of(self, context: Any, request: Request) -> tuple[int, str] | None:
        userid = request.authenticated_userid
        if userid == self._admission.userid:
            return None
        return NOBODY if userid is None else ANOTHER_USER

    # In a thread.

    def _run(self) -> None:
        if self._is_cancelled:
            return
        self.has_begun = True
        try:
            self._repeat()
        except BaseException as error:
            self.failure = error
        call_soon(self._loop, self._hear)

    def _repeat(self) -> None:
        admission, exchange = self._admission, self.exchange
        environ = admission.environ()
        environ[REVALIDATION] = True
        response = admission.handshakes.answer(exchange, environ, admission.cookies, self._loop)
        if exchange.succeeded(response):
            self.end = exchange.result
            return
        status = exchange.status_of(response)
        error = getattr(exchange.request, "exception", None)
        if error is None and status < 300:
            # The page for logging in, say: a client that has come this way would be refused.
            status = 403
        if 300 <= status < 500:
            self.end = 4000 + status, NO_LONGER_PERMITTED
        else:
            self.failure = error or status

    # On the event loop.

    def _hear(self) -> None:
        if not self._is_cancelled:
            self._heard(self)
