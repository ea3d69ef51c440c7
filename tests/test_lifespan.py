"""Startup and shutdown contexts, with and without a server's help."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers.exceptions import LifespanError
from pyramid_asgi_consumers.lifespan import Lifespan, running


async def drained():
    """There is nothing to wait for."""


def context(name, happened, state=None, at_start=None, at_end=None):
    """A factory of contexts that note what happens to them, and raise what they are given."""

    @asynccontextmanager
    async def factory(registry):
        happened.append(f"enter {name}")
        if at_start is not None:
            raise at_start
        try:
            yield state
        finally:
            happened.append(f"leave {name}")
        if at_end is not None:
            raise at_end

    return factory


async def serve(app, state=None):
    """Start and stop ``app`` as a server does; return what it sent."""
    sent = []
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    scope = {"type": "lifespan"} if state is None else {"type": "lifespan", "state": state}

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent


def types(sent):
    return [message["type"] for message in sent]


async def test_contexts_are_entered_in_order_and_left_in_reverse():
    happened = []
    lifespan = Lifespan(None, [context("a", happened), context("b", happened)], drained)
    sent = await serve(lifespan)
    assert types(sent) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert happened == ["enter a", "enter b", "leave b", "leave a"]


async def test_a_factory_gets_the_registry():
    seen = []

    @asynccontextmanager
    async def factory(registry):
        seen.append(registry)
        yield

    await serve(Lifespan("the registry", [factory], drained))
    assert seen == ["the registry"]


async def test_what_runs_is_waited_for_before_a_context_is_left():
    happened = []

    async def drain():
        happened.append("drain")

    await serve(Lifespan(None, [context("a", happened)], drain))
    assert happened == ["enter a", "drain", "leave a"]


async def test_what_contexts_yield_is_merged_into_the_state():
    factories = [context("a", [], {"x": 1, "y": 1}), context("b", [], {"y": 2})]
    lifespan = Lifespan(None, factories, drained)
    state = {"of the server": 0}
    await serve(lifespan, state)
    assert state == {"of the server": 0, "x": 1, "y": 2}
    assert lifespan.state == {"x": 1, "y": 2}


async def test_a_context_that_yields_no_mapping_is_a_failure(caplog):
    sent = await serve(Lifespan(None, [context("a", [], 7)], drained))
    assert types(sent) == ["lifespan.startup.failed"]
    assert "must yield a mapping or None, not 7" in sent[0]["message"]


async def test_a_failing_start_says_why_and_leaves_what_was_entered(caplog):
    happened = []
    factories = [
        context("a", happened),
        context("b", happened, at_start=OSError("no database")),
        context("c", happened),
    ]
    sent = await serve(Lifespan(None, factories, drained))
    assert sent == [{"type": "lifespan.startup.failed", "message": "OSError: no database"}]
    assert happened == ["enter a", "enter b", "leave a"]
    assert [record.getMessage() for record in caplog.records] == [
        "The application's startup failed"
    ]


async def test_a_failing_stop_says_why_and_leaves_the_others(caplog):
    happened = []
    factories = [context("a", happened), context("b", happened, at_end=OSError("stuck"))]
    sent = await serve(Lifespan(None, factories, drained))
    assert sent[1] == {"type": "lifespan.shutdown.failed", "message": "OSError: stuck"}
    assert happened == ["enter a", "enter b", "leave b", "leave a"]


async def run_within(app):
    async with running(app) as state:
        return state


async def test_an_application_can_be_run_within_its_lifespan():
    happened = []
    async with running(Lifespan(None, [context("a", happened, {"x": 1})], drained)) as state:
        assert state == {"x": 1}
        assert happened == ["enter a"]
    assert happened == ["enter a", "leave a"]


async def test_what_fails_to_start_or_stop_is_raised(caplog):
    with pytest.raises(LifespanError, match="ValueError: no"):
        await run_within(Lifespan(None, [context("a", [], at_start=ValueError("no"))], drained))
    with pytest.raises(LifespanError, match="ValueError: no"):
        await run_within(Lifespan(None, [context("a", [], at_end=ValueError("no"))], drained))


async def test_a_failure_without_a_message_is_raised():
    async def app(scope, receive, send):
        await send({"type": "lifespan.startup.failed"})

    with pytest.raises(LifespanError, match="the startup failed"):
        await run_within(app)


async def test_an_application_without_a_lifespan_is_left_without():
    async def raising(scope, receive, send):
        raise NotImplementedError(scope["type"])

    async def returning(scope, receive, send):
        return

    for app in (raising, returning):
        assert await run_within(app) == {}


async def test_an_application_that_breaks_while_it_stops_is_an_error():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await run_within(app)


async def test_no_task_is_left_when_the_body_fails():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    with pytest.raises(KeyError):
        async with running(app):
            raise KeyError
    assert asyncio.all_tasks() == before


@pytest.fixture
def leaving(monkeypatch):
    """What is to be awaited when the server stops, in place of Twisted's reactor."""
    callbacks = []
    monkeypatch.setattr("pyramid_asgi_consumers.quirks.before_shutdown", callbacks.append)
    return callbacks


async def test_without_a_server_all_wait_for_one_start(leaving):
    happened = []
    lifespan = Lifespan(None, [context("a", happened, {"x": 1})], drained)
    await asyncio.gather(*(lifespan.start_without_server() for _ in range(3)))
    assert (happened, lifespan.started, lifespan.state) == (["enter a"], True, {"x": 1})
    (leave,) = leaving
    await leave()
    assert happened == ["enter a", "leave a"]


async def test_without_a_server_a_failing_start_is_tried_again(leaving, caplog):
    happened = []
    factories = [context("a", happened), context("b", happened, at_start=OSError("not yet"))]
    lifespan = Lifespan(None, factories, drained)
    for _ in range(2):
        with pytest.raises(LifespanError, match="not yet"):
            await lifespan.start_without_server()
        assert not lifespan.started
    assert happened == ["enter a", "enter b", "leave a"] * 2
    factories.pop()
    await lifespan.start_without_server()
    assert lifespan.started
    await leaving[0]()


async def test_a_connection_that_goes_away_does_not_undo_the_start(leaving):
    go_on = asyncio.Event()

    @asynccontextmanager
    async def slow(registry):
        await go_on.wait()
        yield

    lifespan = Lifespan(None, [slow], drained)
    first, second = (asyncio.create_task(lifespan.start_without_server()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait((first,))
    go_on.set()
    await second
    assert lifespan.started
    await leaving[0]()


@asynccontextmanager
async def by_name(registry):
    yield {"by": "name"}


async def test_a_lifespan_is_declared_by_object_or_dotted_name():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.add_asgi_lifespan(f"{__name__}.by_name")
    state = {}
    await serve(config.make_asgi_app(), state)
    assert state == {"by": "name"}
    (entry,) = config.introspector.get_category("asgi lifespans")
    assert entry["introspectable"]["factory"] is by_name


def test_a_lifespan_that_cannot_be_called_is_named():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    with pytest.raises(ConfigurationError, match="add_asgi_lifespan: factory must be .* not 7"):
        config.add_asgi_lifespan(7)
