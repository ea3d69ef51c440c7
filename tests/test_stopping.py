"""What is registered to end with its server, without a server or with one in this process.

``tests/servers/test_endless_servers.py`` stops all servers.
"""

import asyncio
import contextlib
import contextvars
import logging
import socket

import pytest
from hypercorn.asyncio import serve as serve_hypercorn
from hypercorn.config import Config as HypercornConfig
from uvicorn import Config, Server

from pyramid_asgi_consumers.interfaces import IStopping
from pyramid_asgi_consumers.quirks import TOLD, Told
from pyramid_asgi_consumers.stopping import Stopping
from tests.support.clients import DEADLINE


@pytest.fixture
def told():
    """The word of the server of this test."""
    told = Told()
    token = TOLD.set(told)
    yield told
    TOLD.reset(token)


class Counting(asyncio.SelectorEventLoop):
    """Counts the timers that it is given."""

    timers = 0

    def call_at(self, *args, **options):
        self.timers += 1
        return super().call_at(*args, **options)


def own_ends():
    return Stopping().of(asyncio.get_running_loop())


class Ended(asyncio.Event):
    """Is set by a call, which counts."""

    calls = 0

    def __call__(self):
        self.calls += 1
        self.set()

    async def soon(self):
        await asyncio.wait_for(self.wait(), DEADLINE)


def test_an_application_has_one(config):
    app = config.make_asgi_app()
    assert isinstance(app.registry.getUtility(IStopping), Stopping)


async def test_each_event_loop_has_its_own():
    stopping = Stopping()
    loop = asyncio.get_running_loop()
    ends = stopping.of(loop)
    others = await asyncio.to_thread(asyncio.run, _of_running_loop(stopping))
    assert others is not ends
    # The other loop is closed, and forgotten.
    await asyncio.to_thread(asyncio.run, _of_running_loop(stopping))
    assert len(stopping._by_loop) == 2
    assert stopping.of(loop) is ends


async def _of_running_loop(stopping):
    return stopping.of(asyncio.get_running_loop())


async def test_it_ends_once_when_the_server_begins_to_stop(told):
    ends, ended, other = own_ends(), Ended(), Ended()
    ends.add(ended)
    assert not ended.is_set()
    told.begin()
    await ended.soon()
    # What comes later ends, too, and is not called at once.
    ends.add(other)
    assert not other.is_set()
    await other.soon()
    assert (ended.calls, other.calls) == (1, 1)


async def test_what_was_discarded_is_not_called(told):
    ends, ended, other = own_ends(), Ended(), Ended()

    def end():
        ends.discard(other)
        ended()

    told.begin()
    ends.add(end)
    ends.add(other)
    ends.add(ended)
    ends.discard(ended)
    # It was never there.
    ends.discard(print)
    await ended.soon()
    await asyncio.sleep(0)
    assert (ended.calls, other.calls) == (1, 0)


async def test_what_another_server_serves_on_the_same_event_loop_goes_on(told):
    ends, ended, other = own_ends(), Ended(), Ended()
    ends.add(ended)
    contextvars.Context().run(ends.add, other)
    told.begin()
    await ended.soon()
    assert not other.is_set()
    ends.discard(other)


async def test_one_that_fails_is_logged_and_keeps_no_other_from_its_end(told, caplog):
    ends, ended = own_ends(), Ended()

    def fail():
        raise ValueError("of no use")

    told.begin()
    ends.add(fail)
    ends.add(ended)
    await ended.soon()
    (record,) = caplog.records
    assert (record.levelno, record.exc_info[0]) == (logging.ERROR, ValueError)
    assert record.getMessage().startswith("Failed to end with the server: <function test_one_that_")


async def test_they_end_in_no_context_of_a_connection(told):
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("of a connection")
    seen = []
    ends, ended = own_ends(), Ended()

    def end():
        seen.append(variable.get())
        ended()

    ends.add(end)
    told.begin()
    await ended.soon()
    assert seen == ["none"]


def test_one_timer_runs_as_long_as_anything_is_registered():
    async def main():
        loop = asyncio.get_running_loop()
        ends = own_ends()
        assert loop.timers == 0
        several = [Ended() for _ in range(100)]
        for end in several:
            ends.add(end)
        assert loop.timers == 1
        for end in several:
            ends.discard(end)
        ends.add(several[0])
        ends.discard(several[0])
        while loop._scheduled:
            await asyncio.sleep(0)
        assert loop.timers == 1

    loop = Counting()
    loop.run_until_complete(main())
    loop.close()


@contextlib.asynccontextmanager
async def uvicorn(app, **options):
    """Serve ``app`` with Uvicorn on this event loop; give its server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = Config(app, lifespan="off", log_config=None, **options)
        server = Server(config)
        server.address = listener.getsockname()
        server.task = task = asyncio.create_task(served(server, listener))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            yield server
        finally:
            server.should_exit = True
            await asyncio.wait([task], timeout=DEADLINE)


async def served(server, listener):
    await server.serve(sockets=[listener])


async def hello(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def test_uvicorn_is_known_whoever_runs_it():
    ends, ended = own_ends(), Ended()
    async with uvicorn(hello) as server:
        ends.add(ended)
        assert not ended.is_set()
        server.should_exit = True
        await ended.soon()


async def test_uvicorn_stops_without_a_word_after_a_number_of_requests():
    ends, ended = own_ends(), Ended()
    async with uvicorn(hello, limit_max_requests=1) as server:
        ends.add(ended)
        _, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        await ended.soon()
        writer.close()
        await writer.wait_closed()


async def test_uvicorn_is_known_by_its_parts():
    """Some call these one by one, as ``serve`` does."""
    ends, ended = own_ends(), Ended()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = Config(hello, lifespan="off", log_config=None)
        config.load()
        server = Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        task = asyncio.create_task(server.main_loop())
        await asyncio.sleep(0)
        ends.add(ended)
        server.should_exit = True
        await ended.soon()
        await task
        await server.shutdown(sockets=[listener])


async def test_uvicorn_does_not_wait_for_a_client_that_takes_nothing():
    ends, ended, begun = own_ends(), Ended(), asyncio.Event()
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if len(scopes) == 1:
            # The server takes it from the application, and the client takes nothing.
            await send({"type": "http.response.body", "body": b"x" * 20_000_000})
            return begun.set()
        await send({"type": "http.response.body", "body": b"one,", "more_body": True})
        ends.add(ended)
        await ended.soon()
        for scope in scopes:
            # As middleware copies it.
            ends.break_off({**scope})
        while len(server.server_state.connections) == 2:
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b"two"})

    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with uvicorn(app) as server:
        _, slow = await asyncio.open_connection(*server.address, limit=1)
        slow.write(request)
        await asyncio.wait_for(begun.wait(), DEADLINE)
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(request)
        await reader.readuntil(b"one,")
        server.should_exit = True
        await reader.readuntil(b"two")
        await asyncio.wait_for(asyncio.shield(server.task), DEADLINE)
        slow.close()
        writer.close()


async def test_a_server_that_is_over_has_stopped_and_another_goes_on():
    ends, first, second = own_ends(), Ended(), Ended()
    async with uvicorn(hello) as over, uvicorn(hello) as server:
        ends.add(first)
        # It never comes to say so.
        over.task.cancel()
        await first.soon()
        over.servers[0].close()
        ends.add(second)
        await asyncio.sleep(0)
        assert not second.is_set()
        server.should_exit = True
        await second.soon()


async def test_a_server_may_come_later():
    ends, ended, other, begun = own_ends(), Ended(), Ended(), asyncio.Event()

    async def app(scope, receive, send):
        begun.set()
        # The server is not over before.
        await other.soon()
        await hello(scope, receive, send)

    ends.add(ended)
    async with uvicorn(app) as server:
        _, writer = await asyncio.open_connection(*server.address)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.wait_for(begun.wait(), DEADLINE)
        # It is looked for in each second.
        while not ends._stops:
            await asyncio.sleep(0.01)
        server.should_exit = True
        await ended.soon()
        ends.add(other)
        await other.soon()
        writer.close()


async def test_hypercorn_is_known():
    ends, ended, early, stop = own_ends(), Ended(), Ended(), asyncio.Event()
    config = HypercornConfig()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        config.bind = [f"fd://{listener.detach()}"]
    serving = serve_hypercorn(hello, config, shutdown_trigger=stop.wait, mode="asgi")
    task = asyncio.create_task(serving)
    await asyncio.sleep(0)
    # It has begun to start.
    ends.add(early)
    _, writer = await asyncio.open_connection(*address)
    ends.add(ended)
    await asyncio.sleep(0)
    assert not ended.is_set()
    stop.set()
    await ended.soon()
    await early.soon()
    writer.close()
    await task
