"""A user who is put out while a handshake is under way does not stay, whenever that is.

Each test makes the same connection again and again. In the first run the user logs out at the first
moment, in the next one at the second, and so on, until there is a run in which the connection is
open and has served before that. Who logs out leaves a table, in which the policy looks, and is
disconnected by the same transaction.
"""

import asyncio
import threading
from contextlib import contextmanager
from pathlib import Path

import pyramid
import pytest
from pyramid.config import Configurator
from pyramid.request import Request, RequestLocalCache, apply_request_extensions
from pyramid_retry import RetryableException, is_last_attempt
from transaction import TransactionManager

import pyramid_asgi_consumers
from pyramid_asgi_consumers.channels import channels_of
from pyramid_asgi_consumers.lifespan import running
from tests.support.asgi import CONNECT, SCOPES
from tests.support.moments import Calls, Moments, Steps, run

SECONDS = 20

HERE = str(Path(__file__))
PACKAGE = str(Path(pyramid_asgi_consumers.__file__).parent)
PYRAMID = str(Path(pyramid.__file__).parent)

KINDS = ["function", "websocket", "stream", "http"]


class Policy:
    """Lets those in who are in the ``table``; looks there each time that it is asked."""

    def __init__(self):
        self.table = set()

    def identity(self, request):
        return "ann" if "ann" in self.table else None

    def authenticated_userid(self, request):
        return self.identity(request)

    def permits(self, request, context, permission):
        return self.identity(request) is not None


class RememberingPolicy(Policy):
    """Looks once in each request, and has something to commit then."""

    def __init__(self):
        super().__init__()
        self.commits = 0
        self.users = RequestLocalCache(self._look)

    def _look(self, request):
        request.tm.get().join(Resource(self._commit))
        return super().identity(request)

    def _commit(self):
        self.commits += 1

    def identity(self, request):
        return self.users.get_or_create(request)


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


class LoopThread:
    """An event loop in a thread."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        return self

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(SECONDS)

    def __exit__(self, *exc_info):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(SECONDS)
        self.loop.close()


class Client:
    """One connection, whose client stays, and has been served when it has got three messages."""

    def __init__(self, app, kind):
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
        self.task = asyncio.create_task(
            app(SCOPES[self._protocol](f"/{kind}"), self._receive, self._send)
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


def steps():
    """A moment before each step of each task."""
    return Steps()


PLACES = (PACKAGE, PYRAMID, HERE)


def calls():
    """A moment at each call in the handshake's thread: in the package, Pyramid and the project."""
    return Calls(False, *PLACES)


def all_calls():
    """And on the event loop."""
    return Calls(True, *PLACES)


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


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_stays_who_logs_out_at_a_step_of_the_loop(kind):
    ends = at_each(steps, Site(), kind)
    assert ENDS[kind] <= set(ends) <= {CHECKED, *ENDS[kind]}
    # There are some before the policy looks, while it does, and after it.
    assert len(ends) > 15


@pytest.mark.parametrize(
    "kind, moments",
    [("function", calls), *(pytest.param(k, all_calls, marks=pytest.mark.streams) for k in KINDS)],
)
def test_nobody_stays_who_logs_out_at_a_call(kind, moments):
    ends = at_each(moments, Site(), kind)
    assert ENDS[kind] <= set(ends) <= {CHECKED, *ENDS[kind]}
    assert len(ends) > 50


def project(config):
    """Transactions, attempts, and a tween around them that takes its time."""
    config.include("pyramid_tm")
    config.include("pyramid_retry")
    config.add_tween(f"{__name__}.slow_tween_factory")


def slow_tween_factory(handler, registry):
    def slow_tween(request):
        response = handler(request)
        for _ in range(3):
            takes_its_time()
        if is_last_attempt(request):
            return response
        raise RetryableException

    return slow_tween


def takes_its_time():
    """There is a moment as it is called, and as it returns."""


@pytest.mark.parametrize("moments", [steps, calls])
def test_nobody_stays_who_logs_out_before_the_handshakes_own_commit_or_attempt(moments):
    settings = {"tm.manager_hook": "pyramid_tm.explicit_manager", "retry.attempts": "2"}
    site = Site(RememberingPolicy, project, **settings)
    ends = at_each(moments, site, "function")
    # The last run has two attempts, at least.
    assert site.policy.commits > 1
    assert set(ends) == ENDS["function"]


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_stays_whose_client_leaves_meanwhile(kind):
    ends = at_each(steps, Site(), kind, leaves=True)
    assert set(ends) <= {LEFT, BROKEN_OFF, CHECKED, *ENDS[kind]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_first", [True, False])
def test_nobody_stays_whose_handshake_is_cancelled_meanwhile(kind, is_first):
    site = Site()

    def act():
        cancel = site.client.task.cancel
        if is_first:
            site.client.loop.call_soon_threadsafe(cancel)
        site.log_out()
        if not is_first:
            site.client.loop.call_soon_threadsafe(cancel)

    assert set(at_each(steps, site, kind, act)) <= {CANCELLED, BROKEN_OFF, CHECKED, *ENDS[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_stays_who_is_put_out_on_another_event_loop(kind):
    site = Site()
    with LoopThread() as other:

        def act():
            site.policy.table.discard("ann")
            other.do(channels_of(site.config.registry).disconnect("ann", "bye"))

        ends = set(at_each(steps, site, kind, act))
    assert ENDS[kind] <= ends <= {CHECKED, *ENDS[kind]}
