"""Sessions that are kept on the server, in a dict; and the time that signed ones go by."""

import secrets
import time

from pyramid.interfaces import ISession
from zope.interface import implementer


@implementer(ISession)
class Session(dict):
    """One session; the browser has its ``key``."""

    def __init__(self, store, key, data=(), new=True):
        super().__init__(data)
        self.store = store
        self.key = key
        self.new = new
        self.created = int(time.time())

    def invalidate(self):
        self.store.kept.pop(self.key, None)
        self.clear()

    def changed(self):
        """Nothing is to be said: it is kept at the end of each request."""


class Sessions:
    """A session factory: what nobody asks for within ``timeout`` seconds expires.

    A revalidation is nobody: it finds a session that is there, and prolongs none.
    """

    def __init__(self, timeout):
        self.timeout = timeout
        #: The data of each, and when it expires.
        self.kept = {}

    def __call__(self, request):
        key = request.cookies.get("session_id")
        data, expires = self.kept.get(key, ({}, 0))
        if expires <= time.monotonic():
            self.kept.pop(key, None)
            key, data = secrets.token_hex(8), {}
        session = Session(self, key, data, new=not data)
        if "asgi.revalidation" not in request.environ:
            request.add_response_callback(self._keep)
        return session

    def _keep(self, request, response):
        session = request.session
        if session:
            self.kept[session.key] = dict(session), time.monotonic() + self.timeout
            response.set_cookie("session_id", session.key)


class Clock:
    """What stands in for ``time`` in ``pyramid.session``: hours pass when a test says so."""

    def __init__(self):
        #: So many seconds have passed besides.
        self.passed = 0

    def time(self):
        return time.time() + self.passed
