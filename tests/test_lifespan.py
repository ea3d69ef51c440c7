"""Startup and shutdown contexts, with and without a server's help."""

import asyncio
import contextlib
import gc
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers import quirks, stubborn
from pyramid_asgi_consumers.exceptions import LifespanError
from pyramid_asgi_consumers.lifespan import ENTERS_NONE, Lifespan, running, starts_nothing
from pyramid_asgi_consumers.raised import COUNTED


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


# Python 3.10 cannot tell the last from a cancellation by the server.
EXITS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()]
EXITS = EXITS[: 4 if COUNTED else 3]


@pytest.mark.parametrize("error", EXITS, ids=repr)
@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_what_a_context_raises_does_not_end_the_event_loop(phase, error, caplog):
    # A server has a handler of its own, under which a KeyboardInterrupt is not the user's.
    before = signal.signal(signal.SIGINT, lambda *args: None)
    try:
        at = {"startup": "at_start", "shutdown": "at_end"}[phase]
        app = Lifespan(None, [context("a", [], **{at: error})], drained)
        sent = await asyncio.wait_for(serve(app), 20)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sent[-1]["type"] == f"lifespan.{phase}.failed"
    assert sent[-1]["message"].startswith(type(error).__name__)
    assert caplog.messages == [f"The application's {phase} failed"]


async def test_an_application_that_exits_does_not_start():
    async def app(scope, receive, send):
        raise SystemExit(3)

    with pytest.raises(LifespanError, match="The application raised SystemExit: 3") as failed:
        await running(app).__aenter__()
    assert isinstance(failed.value.__cause__, SystemExit)


async def test_an_application_that_goes_on_when_it_is_cancelled_is_left_alone(monkeypatch, caplog):
    monkeypatch.setattr(stubborn, "PATIENCE", 0.01)
    released = asyncio.Event()

    async def app(scope, receive, send):
        app.task = asyncio.current_task()
        await send({"type": "lifespan.startup.complete"})
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()

    context = running(app)
    await context.__aenter__()
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(context.__aexit__(None, None, None), 0.01)
    assert caplog.messages[0].startswith("Left alone, since it goes on 0.01 s after")
    released.set()
    await app.task


async def test_an_application_that_was_cancelled_with_its_event_loop_is_no_error():
    async def app(scope, receive, send):
        app.task = asyncio.current_task()
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()

    async with running(app):
        app.task.cancel()
    assert app.task.cancelled()


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


# Without a server that says so.


def ask(lifespan, **scope):
    """A task that is a connection's."""
    return asyncio.create_task(lifespan.start(scope))


async def test_the_first_connections_wait_for_one_start():
    happened = []
    lifespan = Lifespan(None, [context("a", happened, {"x": 1})], drained)
    runs = await asyncio.gather(*(lifespan.start({}) for _ in range(3)))
    assert len(set(runs)) == 1
    assert (happened, runs[0].entered, runs[0].state) == (["enter a"], True, {"x": 1})


def test_the_end_of_the_event_loop_leaves_the_contexts_after_what_runs():
    happened = []

    async def drain():
        happened.append("drain")

    async def serve_one():
        await lifespan.start({})

    lifespan = Lifespan(None, [context("a", happened), context("b", happened)], drain)
    for _ in range(2):
        asyncio.run(serve_one())
        assert happened == ["enter a", "enter b", "drain", "leave b", "leave a"]
        assert not lifespan.runs
        happened.clear()


def test_a_context_can_use_timeouts_when_the_event_loop_ends():
    happened = []

    @asynccontextmanager
    async def factory(registry):
        yield
        task = asyncio.current_task()
        happened.append(getattr(task, "cancelling", int)())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        happened.append("left")

    async def serve_one():
        await lifespan.start({})

    lifespan = Lifespan(None, [factory], drained)
    asyncio.run(serve_one())
    assert happened == [0, "left"]


def test_one_warning_says_so_however_many_event_loops_there_are(caplog):
    async def serve_one():
        await lifespan.start({})

    lifespan = Lifespan(None, [context("a", [])], drained)
    for _ in range(2):
        asyncio.run(serve_one())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("No lifespan came before the first connection")


async def test_a_connection_that_enters_no_contexts_uses_those_that_are_there(caplog):
    happened = []
    lifespan = Lifespan(None, [context("a", happened, {"x": 1})], drained)
    run = await lifespan.start({ENTERS_NONE: True})
    assert (run.state, happened, lifespan.runs, caplog.messages) == ({}, [], {}, [])
    async with running(lifespan):
        assert (await lifespan.start({ENTERS_NONE: True})).state == {"x": 1}


def test_what_starts_nothing_is_no_reason_to_start_or_to_warn(caplog):
    async def serve_one():
        run = await lifespan.start({})
        assert run.entered
        assert await lifespan.start({}) is run
        assert asyncio.all_tasks() == {asyncio.current_task()}

    happened = []
    lifespan = Lifespan(None, [starts_nothing(context("a", happened))], drained)
    asyncio.run(serve_one())
    assert (happened, caplog.records) == ([], [])


async def test_what_starts_nothing_is_entered_by_a_lifespan_that_comes_later():
    happened = []
    lifespan = Lifespan(None, [starts_nothing(context("a", happened))], drained)
    await lifespan.start({})
    await serve(lifespan)
    assert happened == ["enter a", "leave a"]


async def test_a_failing_start_is_tried_again_with_the_next_connection(caplog):
    happened = []
    factories = [context("a", happened), context("b", happened, at_start=OSError("not yet"))]
    lifespan = Lifespan(None, factories, drained)
    for _ in range(2):
        first, second = ask(lifespan), ask(lifespan)
        for each in (first, second):
            with pytest.raises(LifespanError, match="not yet"):
                await each
        assert not lifespan.runs
    assert happened == ["enter a", "enter b", "leave a"] * 2
    factories.pop()
    assert (await lifespan.start({})).entered


async def test_a_start_that_exits_is_a_failure(caplog):
    lifespan = Lifespan(None, [context("a", [], at_start=SystemExit(3))], drained)
    with pytest.raises(LifespanError, match="SystemExit: 3"):
        await lifespan.start({})
    assert types(await serve(lifespan)) == ["lifespan.startup.failed"]


def held(happened):
    """A factory whose contexts wait for the event that it is returned with."""
    go_on = asyncio.Event()

    @asynccontextmanager
    async def factory(registry):
        happened.append("begin")
        try:
            await go_on.wait()
            yield
        finally:
            happened.append("end")

    return factory, go_on


async def begun(happened):
    while not happened:
        await asyncio.sleep(0)


async def test_a_connection_that_goes_away_does_not_undo_the_start():
    happened = []
    factory, go_on = held(happened)
    lifespan = Lifespan(None, [factory], drained)
    first, second = ask(lifespan), ask(lifespan)
    await begun(happened)
    first.cancel()
    await asyncio.wait((first,))
    go_on.set()
    assert (await second).entered
    assert happened == ["begin"]


def test_a_start_that_never_returns_ends_with_the_event_loop():
    happened = []

    async def give_up():
        factory, _ = held(happened)
        lifespan = Lifespan(None, [factory], drained)
        waiting = ask(lifespan)
        await begun(happened)
        return waiting

    assert asyncio.run(give_up()).cancelled()
    assert happened == ["begin", "end"]


async def test_a_server_that_gives_up_ends_the_start():
    happened = []
    factory, _ = held(happened)
    lifespan = Lifespan(None, [factory], drained)
    server = asyncio.create_task(serve(lifespan))
    await begun(happened)
    connection = ask(lifespan)
    await asyncio.sleep(0)
    server.cancel()
    with pytest.raises(LifespanError, match="the startup was cancelled"):
        await connection
    await asyncio.wait((server,))
    assert server.cancelled()
    assert happened == ["begin", "end"]
    assert not lifespan.runs


async def test_a_context_that_asks_the_application_does_not_wait_for_itself():
    seen = []

    @asynccontextmanager
    async def factory(registry):
        seen.append(await lifespan.start({}))
        yield {"x": 1}

    lifespan = Lifespan(None, [factory], drained)
    assert await asyncio.wait_for(lifespan.start({}), 20) is seen[0]


def test_contexts_are_entered_once_for_each_event_loop():
    happened = []
    lifespan = Lifespan(None, [context("a", happened, {"x": 1})], drained)
    both = threading.Barrier(2)

    async def serve_two():
        run = await lifespan.start({})
        assert await lifespan.start({}) is run
        await asyncio.to_thread(both.wait, 20)
        assert happened == ["enter a"] * 2
        await asyncio.to_thread(both.wait, 20)
        return run

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(lambda _: asyncio.run(serve_two()), range(2))
    assert first is not second
    assert happened == ["enter a"] * 2 + ["leave a"] * 2


def test_an_event_loop_that_was_closed_without_a_word_counts_as_none(caplog):
    happened = []
    lifespan = Lifespan(None, [context("a", happened)], drained)
    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(lifespan.start({}))
        loop.close()
        assert happened == ["enter a"]
        assert list(lifespan.runs) == [loop]
        happened.clear()
    lifespan.runs.clear()
    gc.collect()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_lifespan_that_comes_later_takes_the_contexts_over():
    happened = []
    lifespan = Lifespan(None, [context("a", happened, {"x": 1})], drained)
    await lifespan.start({})
    async with running(lifespan) as state:
        assert state == {"x": 1}
        assert happened == ["enter a"]
    assert happened == ["enter a", "leave a"]


async def test_a_connection_within_a_lifespan_enters_nothing():
    happened = []
    lifespan = Lifespan(None, [context("a", happened, {"x": 1})], drained)
    async with running(lifespan):
        assert (await lifespan.start({})).state == {"x": 1}
    assert happened == ["enter a", "leave a"]


async def test_a_connection_after_the_end_of_a_lifespan_enters_the_contexts_again():
    happened = []
    lifespan = Lifespan(None, [context("a", happened)], drained)
    await serve(lifespan)
    await lifespan.start({})
    assert happened == ["enter a", "leave a", "enter a"]


async def test_two_lifespans_of_one_event_loop_share_the_contexts():
    happened = []
    lifespan = Lifespan(None, [context("a", happened, {"x": 1})], drained)
    async with running(lifespan):
        async with running(lifespan) as state:
            assert state == {"x": 1}
        assert happened == ["enter a"]
    assert happened == ["enter a", "leave a"]


async def test_a_lifespan_that_is_cancelled_leaves_its_contexts():
    happened = []
    lifespan = Lifespan(None, [context("a", happened)], drained)
    started, forever = asyncio.Event(), asyncio.Event()

    async def receive():
        if happened:
            await forever.wait()
        return {"type": "lifespan.startup"}

    async def send(message):
        started.set()

    task = asyncio.create_task(lifespan({"type": "lifespan"}, receive, send))
    await started.wait()
    task.cancel()
    await asyncio.wait((task,))
    assert happened == ["enter a", "leave a"]


@asynccontextmanager
async def by_name(registry):
    yield {"by": "name"}


async def test_a_lifespan_is_declared_by_object_or_dotted_name(config):
    config.add_asgi_lifespan(f"{__name__}.by_name")
    state = {}
    await serve(config.make_asgi_app(), state)
    assert state == {"by": "name"}
    (entry,) = config.introspector.get_category("asgi lifespans")
    assert entry["introspectable"]["factory"] is by_name


def test_a_lifespan_that_cannot_be_called_is_named(config):
    with pytest.raises(ConfigurationError, match="add_asgi_lifespan: factory must be .* not 7"):
        config.add_asgi_lifespan(7)


# Servers that wait without a bound for what they do not know.


@pytest.fixture
def before_shutdown(monkeypatch):
    """What a server of that kind was asked to await before it ends."""
    asked = []
    monkeypatch.setattr(quirks, "before_shutdown", lambda leave: asked.append(leave) or True)
    return asked


def hanging(happened, at="end"):
    @asynccontextmanager
    async def factory(registry):
        happened.append("enter")
        if at == "start":
            await asyncio.Event().wait()
        try:
            yield
            await asyncio.Event().wait()
        finally:
            happened.append("end")

    return factory


@pytest.mark.parametrize("seconds", [0.01, None])
async def test_a_context_that_hangs_has_a_while_to_be_left(seconds, before_shutdown, caplog):
    happened = []
    factories = [context("a", happened), hanging(happened)]
    lifespan = Lifespan(None, factories, drained, 0.02)
    await lifespan.start({})
    (leave,) = before_shutdown
    await leave(seconds)
    assert happened == ["enter a", "enter", "end", "leave a"]
    assert caplog.messages[0].startswith(
        f"The contexts are not left after {seconds or 0.02:.3g} s, but wait: "
    )
    # It does so once more, to nobody.
    await leave(seconds)


async def test_a_start_that_hangs_is_ended(before_shutdown, caplog):
    happened = []
    factories = [context("a", happened), hanging(happened, "start")]
    lifespan = Lifespan(None, factories, drained)
    asking = ask(lifespan)
    while happened != ["enter a", "enter"]:
        await asyncio.sleep(0)
    (leave,) = before_shutdown
    await leave(None)
    with pytest.raises(LifespanError, match="the startup was cancelled"):
        await asking
    assert (happened, caplog.messages) == (["enter a", "enter", "leave a"], [])


async def test_a_server_is_asked_once_however_often_the_start_fails(before_shutdown):
    lifespan = Lifespan(None, [context("a", [], at_start=OSError("not yet"))], drained)
    for _ in range(3):
        with pytest.raises(LifespanError):
            await lifespan.start({})
    assert len(before_shutdown) == 1


@pytest.mark.parametrize("seconds", [0.01, None])
async def test_what_starts_nothing_is_left_in_time(seconds, before_shutdown, caplog):
    happened = []
    factories = [starts_nothing(context("a", happened)), starts_nothing(hanging(happened))]
    lifespan = Lifespan(None, factories, drained, 0.02)
    await lifespan.start({})
    (leave,) = before_shutdown
    await leave(seconds)
    assert happened == ["enter a", "enter", "end", "leave a"]
    assert len(caplog.messages) == 1
