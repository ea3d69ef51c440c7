"""A user who logs out while a connection of his is being made, and that connection.

Who logs out leaves a table, in which the policy looks, and is disconnected by the same transaction.
"""

import asyncio
from contextlib import contextmanager

from pyramid.config import Configurator
from pyramid.request import Request, apply_request_extensions
from transaction import TransactionManager

from pyramid_asgi_consumers.lifespan import running
from tests.support.asgi import CONNECT, SCOPES
from tests.support.moments import Moments, run

SECONDS = 20

KINDS = ["function", "websocket", "stream", "http"]


class Policy:
    """Lets those in who are in the ``table``; looks there each time that it is asked.

    Who it is says the header ``User``, or else it is ``ann``.
    """

    def __init__(self):
        self.table = set()

    def identity(self, request):
        name = request.headers.get("User", "ann")
        return name if name in self.table else None

    def authenticated_userid(self, request):
        return self.identity(request)

    def permits(self, request, context, permission):
        return self.identity(request) is not None


class Resource:
    """A resource of a transaction, which calls ``finish()`` when that commits."""

    transaction_manager = None

    def __init__(self, finish):
        self.finish = finish

    def tpc_finish(self, transaction):
        self.finish()

    def sortKey(self):
        return ""

    def nothing(self, transaction):
        """There is nothing to do."""

    abort = commit = tpc_begin = tpc_vote = nothing


class Site:
    """An application with a consumer of each kind, for whom is in the table."""

    def __init__(self, policy=Policy, configure=None, **settings):
        self.policy = policy()
        self.config = config = Configurator(settings=settings)
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(self.policy)
        config.add_websocket("/function", self.function, permission="stay")
        config.add_asgi_consumer("/websocket", "websocket", self.websocket, permission="stay")
        config.add_event_stream("/stream", self.stream, permission="stay")
        config.add_asgi_consumer("/http", "http", self.http, permission="stay")
        if configure is not None:
            configure(config)
        self.app = config.make_asgi_app()
        #: How many functions have begun, and not ended.
        self.open = 0

    @contextmanager
    def opened(self):
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def function(self, websocket):
        with self.opened():
            await websocket.accept()
            async for message in websocket:
                await websocket.send(message)

    async def websocket(self, scope, receive, send):
        with self.opened():
            await receive()
            await send({"type": "websocket.accept"})
            while (event := await receive())["type"] != "websocket.disconnect":
                await send({"type": "websocket.send", "text": event["text"]})

    async def stream(self, stream):
        with self.opened():
            for number in range(3):
                await stream.send(str(number))
            await asyncio.Event().wait()

    async def http(self, scope, receive, send):
        with self.opened():
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for number in range(3):
                body = str(number).encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.Event().wait()

    def leave_table(self):
        self.policy.table.discard("ann")

    def log_out(self):
        """What the view does in which ``ann`` logs out, and its transaction."""
        request = Request.blank("/")
        request.registry = self.config.registry
        apply_request_extensions(request)
        request.tm = TransactionManager(explicit=True)
        with request.tm:
            request.tm.get().join(Resource(self.leave_table))
            request.channels.disconnect("ann", "bye")


class Client:
    """One connection, whose client stays, and has been served when it has got three messages."""

    def __init__(self, app, kind, user="ann"):
        self.loop = asyncio.get_running_loop()
        self.sent = []
        self.is_served = asyncio.Event()
        self._said = asyncio.Queue()
        self._protocol = "websocket" if kind in ("function", "websocket") else "http"
        if self._protocol == "websocket":
            for event in CONNECT, *({"type": "websocket.receive", "text": x} for x in "abc"):
                self._said.put_nowait(event)
        else:
            self._said.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        headers = [(b"user", user.encode())]
        self.task = asyncio.create_task(
            app(SCOPES[self._protocol](f"/{kind}", headers=headers), self._receive, self._send)
        )

    async def _receive(self):
        await asyncio.sleep(0)
        return await self._said.get()

    async def _send(self, message):
        # Before and after it there is a step.
        await asyncio.sleep(0)
        self.sent.append(message)
        await asyncio.sleep(0)
        if len(self.sent) == 4:
            self.is_served.set()

    def leave(self):
        self._said.put_nowait({"type": f"{self._protocol}.disconnect", "code": 1001})

    async def served(self):
        """Wait until it was served, or is over."""
        served = asyncio.create_task(self.is_served.wait())
        await asyncio.wait({served, self.task}, return_when=asyncio.FIRST_COMPLETED)
        served.cancel()

    async def ended(self):
        """Wait until it is over; return how, for its client."""
        await asyncio.wait({self.task}, timeout=SECONDS)
        assert self.task.done(), self.sent
        if self.task.cancelled():
            return CANCELLED
        self.task.result()
        if not self.sent:
            return BROKEN_OFF
        last = self.sent[-1]
        if last["type"] == "websocket.close":
            return last["code"], last["reason"]
        if last.get("more_body", True):
            return BROKEN_OFF
        return self.sent[0]["status"]


CANCELLED = "cancelled"
LEFT = (1000, "")
BROKEN_OFF = "broken off"
REFUSED = 403
CLOSED = (4401, "bye")
CHECKED = (4403, "no longer permitted")
#: How connections end, for their clients.
ENDS = {
    "function": {REFUSED, CLOSED},
    "websocket": {REFUSED, CLOSED},
    "stream": {REFUSED, 200},
    "http": {REFUSED, BROKEN_OFF},
}


async def connection(site, kind, moments, counted, leaves):
    """One run; return how the connection has ended."""
    async with running(site.app):
        with counted.having(moments):
            site.client = client = Client(site.app, kind)
            if leaves:
                client.leave()
            await client.served()
        if not moments.has_come:
            moments.now()
        end = await client.ended()
    assert site.open == site.app.limit.open == 0
    return end


def at_each(moments_of, site, kind, act=None, leaves=False):
    """How the connections of all runs have ended."""
    ends = []
    counted = moments_of()
    is_last = False
    while not is_last:
        site.policy.table.add("ann")
        loop = counted.make_loop()
        moments = Moments(len(ends), act or site.log_out)
        ends.append(run(connection(site, kind, moments, counted, leaves), loop))
        is_last = moments.passed <= moments.chosen
    return ends
