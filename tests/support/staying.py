"""Connections whose handshakes are repeated, and a policy that changes its mind."""

import asyncio
import contextlib

from pyramid.config import Configurator
from pyramid.security import Allowed, Denied

from tests.support.asgi import CONNECT, SCOPES
from tests.support.wsgi import wait_until

#: So short that nothing need be waited for.
SHORT = 0.01


def close(code, reason="no longer permitted"):
    """How a websocket is closed whose handshake would be another now."""
    return {"type": "websocket.close", "code": code, "reason": reason}


class Policy:
    """Says what the test has it say, and keeps the requests that ask."""

    def __init__(self):
        self.userid = "ann"
        self.permitted = True
        #: What it raises when it is asked, and what it calls when it knows its answer.
        self.error = None
        self.hold = None
        self.requests = []

    def authenticated_userid(self, request):
        return self.userid

    def permits(self, request, context, permission):
        permitted = self.permitted
        self.requests.append(request)
        if self.hold is not None:
            self.hold()
        if self.error is not None:
            raise self.error
        return Allowed("yes") if permitted else Denied("no")


async def echoes(websocket):
    await websocket.accept()
    async for message in websocket:
        await websocket.send(message)


async def lingers(websocket):
    """Goes on for a while when its websocket is closed."""
    await websocket.accept()
    await websocket.wait_closed()
    await asyncio.sleep(0.1)


async def goes_on(stream):
    await stream.send("begun")
    await stream.wait_closed()


async def answers_on(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    await asyncio.Event().wait()


class Site:
    """An application of a consumer of each kind, where ``policy`` says who comes in."""

    def __init__(self, interval=SHORT, settings=None, configure=None, policy=None, **arguments):
        self.policy = policy or Policy()
        self.config = config = Configurator(settings=settings)
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(self.policy)
        config.registry.policy = self.policy
        arguments = {"permission": "stay", "revalidate": interval, **arguments}
        config.add_websocket("/websocket", echoes, **arguments)
        config.add_event_stream("/stream", goes_on, **arguments)
        config.add_asgi_consumer("/http", "http", answers_on, **arguments)
        if configure is not None:
            configure(config)
        self.app = config.make_asgi_app()

    @property
    def requests(self):
        return self.policy.requests

    @contextlib.asynccontextmanager
    async def opened(self, kind="websocket", **more):
        """A connection for the time of the block."""
        client = Client(self.app, kind, **more)
        try:
            await client.wait_until_open()
            yield client
        finally:
            await client.leave()

    async def asked(self, times=2):
        """Wait until the policy was asked so many times more."""
        wanted = len(self.requests) + times
        await wait_until(lambda: len(self.requests) >= wanted)

    def watch(self):
        """Who watches the connections of the running event loop."""
        return self.app.connections.of(asyncio.get_running_loop()).watch


class Client:
    """The client of one connection, and its server."""

    def __init__(self, app, kind, path=None, **more):
        self.kind = kind
        self.sent = []
        self.left = asyncio.Event()
        protocol = "websocket" if kind == "websocket" else "http"
        self._protocol = protocol
        self._waiting = [CONNECT if protocol == "websocket" else {"type": "http.request"}]
        self.scope = SCOPES[protocol](path or f"/{kind}", **more)
        self.task = asyncio.create_task(app(self.scope, self._receive, self._send))

    async def _receive(self):
        if self._waiting:
            return self._waiting.pop()
        await self.left.wait()
        return {"type": f"{self._protocol}.disconnect", "code": 1001, "reason": ""}

    async def _send(self, message):
        self.sent.append(message)

    async def wait_until_open(self):
        await wait_until(lambda: self.sent)

    async def ended(self):
        """How it was ended by the server: the close code, or that of the last message."""
        with contextlib.suppress(ConnectionAbortedError):
            await asyncio.wait_for(asyncio.shield(self.task), 20)
        return self.sent[-1]

    async def leave(self):
        self.left.set()
        with contextlib.suppress(ConnectionAbortedError):
            await asyncio.wait_for(self.task, 20)
