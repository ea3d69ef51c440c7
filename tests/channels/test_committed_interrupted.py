"""Log handlers, finalizers and signals' handlers that publish amid the publishing of commits."""

import asyncio
import gc
import logging
import signal
import threading
from uuid import uuid4

import pytest

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import RedisBackend
from pyramid_asgi_consumers.exceptions import PublishRefused
from tests.support.channels import handled_by
from tests.support.committed import (
    SECONDS,
    Refuses,
    arrived,
    commit,
    published,
    request_of,
    wait_for_jobs,
)

pytestmark = pytest.mark.usefixtures("all_is_published")


class Publishes(logging.Handler):
    """Publishes what is logged, with the result in ``results``."""

    def __init__(self, request):
        super().__init__()
        self.channels = request.channels
        self.results = []

    def emit(self, record):
        self.results.append(self.channels.publish_now("log", record.getMessage()))


async def test_a_log_handler_may_publish_what_is_logged_of_commits():
    class Picky(MemoryBackend):
        def publish_many(self, messages):
            results = super().publish_many(messages)
            return [PublishRefused("away") if name == "a" else results[0] for name, _ in messages]

    channels = Channels(Picky())
    request = request_of(channels)
    handler = Publishes(request)
    with handled_by(handler):
        for number in range(3):
            await commit(request, number)
        await asyncio.to_thread(published)
    assert len(handler.results) == 3 and all(isinstance(x, str) for x in handler.results)
    await asyncio.wait_for(channels.publish("other", 1), SECONDS)


class Raises(logging.Handler):
    def emit(self, record):
        raise LookupError("own fault")


async def test_a_log_handler_that_raises_stops_nothing(backend, monkeypatch):
    raised = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))
    backend.let.set()
    backend.raises = LookupError("the backend's")
    channels = Channels(backend)
    handler = Raises()
    with handled_by(handler):
        await commit(request_of(channels), 0)
        await asyncio.to_thread(published)
    assert [str(error) for error in raised] == ["own fault"]
    backend.raises = None
    await asyncio.wait_for(channels.publish("a", 1), SECONDS)


class Finalized:
    """Calls ``publish`` when the garbage collector finds it."""

    def __init__(self, publish):
        self.cycle = self
        self.publish = publish

    def __del__(self):
        self.publish()


@pytest.fixture
def garbage():
    """The garbage collector runs all the time."""
    before = gc.get_threshold()
    gc.set_threshold(61)
    yield
    gc.set_threshold(*before)


def test_finalizers_may_publish_anywhere(garbage, channels):
    request = request_of(channels)
    finalized = []

    def publish():
        try:
            request.channels.publish_now("gone", 1)
        except RuntimeError:
            # On the loop, as a commit does there.
            channels.committed.publish_later([("gone", b"j1")])
        finalized.append(1)

    def work():
        for number in range(100):
            Finalized(publish)
            request.channels.publish_now(f"b{number % 7}", number)
            with request.tm:
                request.channels.publish("a", ["thread", number])

    async def commits():
        # With a manager of its own: one transaction at a time.
        committing = request_of(channels)
        async with channels.subscribe("a") as events, channels.subscribe("gone") as gone:
            worker = asyncio.ensure_future(asyncio.to_thread(work))
            for number in range(100):
                Finalized(publish)
                await commit(committing, ["loop", 2 * number])
                await channels.publish("a", ["loop", 2 * number + 1])
            await worker
            found = await arrived(events, 300)
            assert [n for where, n in found if where == "loop"] == list(range(200))
            assert [n for where, n in found if where == "thread"] == list(range(100))
            last = [Finalized(publish)]
            while len(finalized) < 201:
                last.clear()
                # It does nothing while another thread collects.
                gc.collect()
                await asyncio.sleep(0)
            assert await arrived(gone, 201) == [1] * 201
        await channels.backend.aclose()

    asyncio.run(asyncio.wait_for(commits(), 2 * SECONDS))


class Interrupted(str):
    """The name of a channel at whose first use by a backend ``then`` is called."""

    def __hash__(self):
        self.interrupt()
        return super().__hash__()

    def __format__(self, spec):
        self.interrupt()
        return str(self)

    def interrupt(self):
        then, self.then = self.then, None
        if then is not None:
            then()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def tight(request):
    """Channels with one connection for all threads."""
    if request.param == "memory":
        return Channels(MemoryBackend())
    server = request.getfixturevalue("redis_server")
    return Channels(RedisBackend(f"{server.url}?max_connections=1", prefix=f"{uuid4()}:"))


async def test_what_interrupts_a_publish_goes_behind_it(tight):
    request = request_of(tight)
    ids = []

    def then():
        interrupting = request_of(tight)
        ids.append(interrupting.channels.publish_now("a", 1))
        with interrupting.tm:
            interrupting.channels.publish("a", 2)

    def work():
        name = Interrupted("a")
        name.then = then
        assert request.channels.publish_now(name, 0)
        request.channels.publish("a", 3)
        name.then = then
        with request.tm:
            request.channels.publish(name, 0)

    async with tight.subscribe("a") as events:
        await asyncio.to_thread(work)
        assert await arrived(events, 7) == [0, 1, 2, 3, 0, 1, 2]
        assert ids == ["", ""]
        await asyncio.to_thread(published)
    await tight.backend.aclose()


async def test_what_interrupts_the_thread_that_publishes_goes_behind_it(tight):
    request = request_of(tight)
    name = Interrupted("a")

    def then():
        assert request.channels.publish_now("a", 1) == ""
        with request.tm:
            request.channels.publish("a", 2)

    name.then = then
    async with tight.subscribe("a") as events:
        tight.committed.publish_later([(name, b"j0")])
        assert await arrived(events, 3) == [0, 1, 2]
        await asyncio.to_thread(published)
    await tight.backend.aclose()


async def test_what_is_refused_behind_what_it_interrupted_is_logged(caplog):
    class Refusing(MemoryBackend):
        def publish_many(self, messages):
            results = super().publish_many(messages)
            return [PublishRefused("away") if name == "b" else results[0] for name, _ in messages]

    request = request_of(Channels(Refusing()))
    name = Interrupted("a")
    name.then = lambda: request.channels.publish_now("b", 1)
    await asyncio.to_thread(request.channels.publish_now, name, 0)
    await asyncio.to_thread(published)
    [record] = caplog.records
    assert record.getMessage() == (
        "Not published on 'b' by what interrupted another publish: away (1 of 1 events)"
    )


def test_the_handler_of_a_signal_may_publish_while_its_thread_waits(backend):
    backend.timeout = 2 * SECONDS
    channels = Channels(backend)
    request = request_of(channels)
    channels.committed.publish_later([("a", b"j0")])
    assert backend.begun.wait(SECONDS)
    ids = []

    def handle(*args):
        ids.append(request.channels.publish_now("a", 2))

    def interrupt():
        wait_for_jobs(channels, 1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        wait_for_jobs(channels, 2)
        backend.let.set()

    interrupting = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        interrupting.start()
        ids.append(request.channels.publish_now("a", 1))
        interrupting.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert backend.calls == [["j0"], ["j1", "j2"]]
    assert len(ids) == 2 and all(ids)


def test_an_interruption_that_raises_reaches_who_publishes_for_all(backend, late, caplog):
    backend.let.set()
    channels = Channels(backend)
    request = request_of(channels)
    backend.raises = KeyboardInterrupt()
    channels.committed.publish_later([("a", b"j0")])
    with pytest.raises(KeyboardInterrupt):
        request.channels.publish_now("a", 1)
    [record] = caplog.records
    assert record.getMessage() == "Publishing 2 events after the commit failed"
    backend.raises = None
    assert request.channels.publish_now("a", 2)
    late()


class Holds(Publishes):
    """Publishes what the main thread logs, when ``let`` has had another wait to log."""

    def __init__(self, request, let):
        super().__init__(request)
        self.let = let
        self.waits = threading.Event()

    def handle(self, record):
        # Its lock is waited for in here.
        if threading.current_thread() is not threading.main_thread():
            self.waits.set()
        return super().handle(record)

    def emit(self, record):
        if threading.current_thread() is threading.main_thread():
            self.let()
            assert self.waits.wait(SECONDS)
            super().emit(record)


def test_a_log_handler_may_publish_while_a_failed_commit_waits_to_be_logged():
    class Picky(Refuses):
        timeout = 2 * SECONDS

        def publish_many(self, messages):
            return ["id"] if messages[0][0] == "log" else super().publish_many(messages)

    channels = Channels(Picky())
    handler = Holds(request_of(channels), channels.backend.let.set)
    with handled_by(handler):
        channels.committed.publish_later([("a", b"j0")])
        assert channels.backend.begun.wait(SECONDS)
        logging.getLogger("pyramid_asgi_consumers").error("something else")
        published()
    assert handler.results == ["id"]
