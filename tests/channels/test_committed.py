"""Publishing after commits that an event loop's thread makes, and what follows them."""

import asyncio
import gc
import logging
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from uuid import uuid4

import pytest
import transaction

from pyramid_asgi_consumers.channels import Channels, RequestChannels
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import RedisBackend
from pyramid_asgi_consumers.exceptions import PublishRefused, PublishUnknown
from pyramid_asgi_consumers.interfaces import IChannels

SECONDS = 20


class Recorder(MemoryBackend):
    """The memory backend, and a note of what was published in which call, when it is let."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.begun = threading.Event()
        self.let = threading.Event()
        self.raises = None

    def publish_many(self, messages):
        self.begun.set()
        assert self.let.wait(SECONDS)
        self.calls.append([payload.decode() for _, payload in messages])
        if self.raises is not None:
            raise self.raises
        return super().publish_many(messages)

    async def publish(self, channel, payload):
        self.calls.append(payload.decode())
        return await super().publish(channel, payload)


def published():
    """Wait until all that was committed is published."""
    mine = [thread for thread in threading.enumerate() if thread.name == "channels-committed"]
    assert not any(thread.join(SECONDS) or thread.is_alive() for thread in mine)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    published()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def channels(request):
    if request.param == "memory":
        return Channels(MemoryBackend())
    server = request.getfixturevalue("redis_server")
    return Channels(RedisBackend(server.url, prefix=f"{uuid4()}:"))


@pytest.fixture
def backend():
    return Recorder()


def request_of(channels):
    def get_utility(interface):
        assert interface is IChannels
        return channels

    registry = SimpleNamespace(getUtility=get_utility)
    request = SimpleNamespace(registry=registry, tm=transaction.TransactionManager(explicit=True))
    request.channels = RequestChannels(request)
    return request


async def commit(request, *numbers):
    with request.tm:
        for number in numbers:
            await request.channels.apublish("a", number)


async def arrived(events, count):
    async def taken():
        return [(await events.__anext__()).data for _ in range(count)]

    return await asyncio.wait_for(taken(), SECONDS)


async def test_events_go_in_the_order_of_the_commits(channels):
    request = request_of(channels)
    async with channels.subscribe("a") as events:
        for number in range(200):
            await commit(request, number)
        assert await arrived(events, 200) == list(range(200))
    await channels.backend.aclose()


async def test_nothing_overtakes_what_was_committed_before(channels):
    request = request_of(channels)

    def elsewhere(number):
        request.channels.publish_now("a", number)
        with request.tm:
            request.channels.publish("a", number + 1)
        request.channels.publish("a", number + 2)

    async with channels.subscribe("a") as events:
        for number in range(0, 210, 7):
            await commit(request, number)
            await channels.publish("a", number + 1)
            await commit(request, number + 2)
            await request.channels.apublish("a", number + 3)
            await commit(request)
            await asyncio.to_thread(elsewhere, number + 4)
        assert await arrived(events, 210) == list(range(210))
        for number in range(30):
            await commit(request, number)
            await asyncio.to_thread(request.channels.publish_now, "a", "now")
        assert await arrived(events, 60) == [x for n in range(30) for x in (n, "now")]

        def committed():
            with request.tm:
                request.channels.publish("a", "then")

        for number in range(30):
            await commit(request, number)
            await asyncio.to_thread(committed)
        assert await arrived(events, 60) == [x for n in range(30) for x in (n, "then")]
    await channels.backend.aclose()


async def test_what_comes_while_the_backend_is_slow_goes_in_one_call(backend):
    channels = Channels(backend)
    request = request_of(channels)
    await commit(request, 0)
    assert await asyncio.to_thread(backend.begun.wait, SECONDS)
    for number in range(1, 4):
        await commit(request, number, number)
    then = asyncio.ensure_future(channels.publish("a", "then"))
    await asyncio.sleep(0)
    assert backend.calls == []
    backend.let.set()
    await asyncio.wait_for(then, SECONDS)
    assert backend.calls == [["j0"], ["j1", "j1", "j2", "j2", "j3", "j3", 'j"then"']]
    await asyncio.to_thread(published)
    await channels.publish("a", "direct")
    assert backend.calls[2:] == ['j"direct"']


async def test_who_no_longer_waits_is_passed_over(backend):
    channels = Channels(backend)
    await commit(request_of(channels), 0)
    first, second = (asyncio.ensure_future(channels.publish("a", name)) for name in "xy")
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    backend.let.set()
    await asyncio.wait_for(second, SECONDS)
    assert backend.calls == [["j0"], ['j"y"']]
    await asyncio.to_thread(published)


@pytest.mark.parametrize("error", [LookupError("own\nfault"), SystemExit(3)])
async def test_a_backend_that_raises_stops_nothing(backend, caplog, error):
    channels = Channels(backend)
    request = request_of(channels)
    backend.let.set()
    backend.raises = error
    await commit(request, 0, 1)
    await asyncio.to_thread(published)
    backend.raises = None
    await commit(request, 2)
    await channels.publish("a", 3)
    assert backend.calls == [["j0", "j1"], ["j2"], "j3"]
    [record] = caplog.records
    assert record.getMessage() == "Publishing 2 events after the commit failed"
    assert record.exc_info[1] is error


@pytest.mark.parametrize("error", [LookupError("own\nfault"), SystemExit(3)])
async def test_who_is_published_beside_commits_is_told_that_a_backend_raised(backend, error):
    channels = Channels(backend)
    await commit(request_of(channels), 0)
    then = asyncio.ensure_future(channels.publish("a", "then"))
    await asyncio.sleep(0)
    backend.raises = error
    backend.let.set()
    with pytest.raises(PublishUnknown, match="Nobody knows"):
        await asyncio.wait_for(then, SECONDS)


class Refuses(MemoryBackend):
    def __init__(self):
        super().__init__()
        self.begun = threading.Event()
        self.let = threading.Event()

    def publish_many(self, messages):
        self.begun.set()
        assert self.let.wait(SECONDS)
        return [PublishRefused("away") for _ in messages]


async def test_who_is_refused_beside_commits_is_told_and_only_the_commits_are_logged(caplog):
    channels = Channels(Refuses())
    request = request_of(channels)
    await commit(request, 0)
    then = asyncio.ensure_future(channels.publish("a", "then"))
    await asyncio.sleep(0)
    channels.backend.let.set()
    with pytest.raises(PublishRefused, match="away"):
        await asyncio.wait_for(then, SECONDS)
    await asyncio.to_thread(published)
    assert [record.getMessage() for record in caplog.records] == [
        "Not published on 'a' after the commit: away (1 of 1 events)"
    ]


# How a publisher waits, on the loop and in a thread.
async def on_the_loop(channels, request):
    await channels.publish("a", "x")


async def in_a_view(channels, request):
    await request.channels.apublish("a", "x")


async def in_a_thread(channels, request):
    await asyncio.to_thread(request.channels.publish_now, "a", "x")


@pytest.mark.parametrize("publish", [on_the_loop, in_a_view, in_a_thread])
async def test_who_waits_too_long_for_earlier_commits_is_refused(backend, publish):
    backend.timeout = 0.05
    channels = Channels(backend)
    request = request_of(channels)
    await commit(request, 0)
    assert await asyncio.to_thread(backend.begun.wait, SECONDS)
    with pytest.raises(PublishRefused, match="committed before still was not after 0.05 seconds"):
        await asyncio.wait_for(publish(channels, request), SECONDS)
    backend.let.set()
    await asyncio.to_thread(published)
    assert backend.calls == [["j0"]]


@pytest.mark.parametrize("publish", [on_the_loop, in_a_view, in_a_thread])
async def test_who_has_no_answer_in_time_is_told_that_nobody_knows(backend, publish):
    channels = Channels(backend)
    request = request_of(channels)
    channels.committed.publish_later([("a", b"j0")])
    assert await asyncio.to_thread(backend.begun.wait, SECONDS)
    backend.begun.clear()
    backend.timeout = 1
    waiting = asyncio.ensure_future(publish(channels, request))
    # It is taken with the second call, which does not end.
    while len(channels.committed._jobs) < 1:
        await asyncio.sleep(0)
    first, backend.let = backend.let, threading.Event()
    first.set()
    assert await asyncio.to_thread(backend.begun.wait, SECONDS)
    with pytest.raises(PublishUnknown, match="no answer within 1 seconds"):
        await asyncio.wait_for(waiting, SECONDS)
    backend.let.set()
    await asyncio.to_thread(published)
    assert backend.calls == [["j0"], ['j"x"']]


async def test_a_commit_in_a_thread_leaves_to_the_other_what_takes_too_long(backend, caplog):
    backend.timeout = 0.05
    request = request_of(Channels(backend))
    await commit(request, 0)

    def elsewhere():
        with request.tm:
            request.channels.publish("a", 1)

    await asyncio.wait_for(asyncio.to_thread(elsewhere), SECONDS)
    assert backend.calls == []
    backend.let.set()
    await asyncio.to_thread(published)
    assert [payload for call in backend.calls for payload in call] == ["j0", "j1"]
    [record] = caplog.records
    assert record.getMessage() == (
        "1 events that were committed still wait for those of earlier commits"
    )


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
    logging.getLogger("pyramid_asgi_consumers").addHandler(handler)
    try:
        for number in range(3):
            await commit(request, number)
        await asyncio.to_thread(published)
    finally:
        logging.getLogger("pyramid_asgi_consumers").removeHandler(handler)
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
    logging.getLogger("pyramid_asgi_consumers").addHandler(handler)
    try:
        await commit(request_of(channels), 0)
        await asyncio.to_thread(published)
    finally:
        logging.getLogger("pyramid_asgi_consumers").removeHandler(handler)
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


async def test_a_thread_that_is_to_publish_may_itself_before_it_begins(backend, monkeypatch):
    backend.let.set()
    backend.timeout = 2 * SECONDS
    request = request_of(Channels(backend))
    run, ids = threading.Thread.run, []

    def run_late(self):
        if self.name == "channels-committed":
            ids.append(request.channels.publish_now("a", 1))
        run(self)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "run", run_late)
        await commit(request, 0)
        await asyncio.to_thread(published)
    assert backend.calls == [["j0", "j1"]]
    assert len(ids) == 1 and ids[0]


async def test_who_comes_second_leaves_it_to_the_first(backend):
    committed = Channels(backend).committed
    committed.publish_later([("a", b"j0")])
    assert await asyncio.to_thread(backend.begun.wait, SECONDS)
    committed.publish_later([("a", b"j1")])
    assert committed._work_once() is None
    assert backend.calls == []
    backend.let.set()
    await asyncio.to_thread(published)
    assert backend.calls == [["j0"], ["j1"]]


@pytest.fixture
def late(monkeypatch):
    """Threads that publish begin when they are let, by calling this."""
    start, waiting = threading.Thread.start, []

    def later(self):
        if self.name == "channels-committed":
            waiting.append(self)
        else:
            start(self)

    def let():
        for thread in waiting:
            start(thread)

    monkeypatch.setattr(threading.Thread, "start", later)
    return let


async def test_nobody_waits_for_a_thread_that_has_yet_to_begin(backend, late):
    backend.timeout = 2 * SECONDS
    backend.let.set()
    request = request_of(Channels(backend))

    def committed():
        with request.tm:
            request.channels.publish("a", 4)

    await commit(request, 0)
    await commit(request, 1)
    assert await asyncio.to_thread(request.channels.publish_now, "a", 2)
    await commit(request, 3)
    await asyncio.to_thread(committed)
    assert backend.calls == [["j0", "j1", "j2"], ["j3", "j4"]]
    late()
    await asyncio.to_thread(published)
    assert len(backend.calls) == 2


def wait_for_jobs(channels, count):
    end = time.monotonic() + SECONDS
    while len(channels.committed._jobs) < count and time.monotonic() < end:
        time.sleep(0)


async def test_who_waits_goes_on_where_a_thread_is_called_that_does_not_begin(backend, late):
    backend.timeout = 2 * SECONDS
    channels = Channels(backend)
    request = request_of(channels)
    await commit(request, 0)
    first = asyncio.ensure_future(asyncio.to_thread(request.channels.publish_now, "a", 1))
    assert await asyncio.to_thread(backend.begun.wait, SECONDS)
    second = asyncio.ensure_future(asyncio.to_thread(request.channels.publish_now, "a", 2))
    await asyncio.to_thread(wait_for_jobs, channels, 1)
    backend.let.set()
    assert all(await asyncio.wait_for(asyncio.gather(first, second), SECONDS))
    assert backend.calls == [["j0", "j1"], ["j2"]]
    late()


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

    def acquire(self):
        if threading.current_thread() is not threading.main_thread():
            self.waits.set()
        super().acquire()

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
    logger = logging.getLogger("pyramid_asgi_consumers")
    logger.addHandler(handler)
    try:
        channels.committed.publish_later([("a", b"j0")])
        assert channels.backend.begun.wait(SECONDS)
        logger.error("something else")
        published()
    finally:
        logger.removeHandler(handler)
    assert handler.results == ["id"]


FORKS = """
import os, signal, sys, threading
from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.memory import MemoryBackend

class Recorder(MemoryBackend):
    calls = []
    begun = threading.Event()
    let = threading.Event()

    def publish_many(self, messages):
        self.begun.set()
        self.let.wait()
        self.calls.append([payload for _, payload in messages])
        return super().publish_many(messages)

backend = Recorder()
channels = Channels(backend)
channels.committed.publish_later([("a", b"j0")])
backend.begun.wait()
channels.committed.publish_later([("a", b"j1")])
child = os.fork()
if not child:
    signal.alarm(20)
    backend.let.set()
    channels.committed.publish([("a", b"j2")])
    os._exit(0 if backend.calls == [[b"j2"]] else 1)
status = os.waitpid(child, 0)[1]
backend.let.set()
channels.committed.publish([("a", b"j3")])
print(status, backend.calls)
"""


def test_a_child_waits_for_no_thread_of_its_parent():
    command = [sys.executable, "-W", "ignore", "-c", FORKS]
    found = subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert found.stdout in (
        b"0 [[b'j0'], [b'j1'], [b'j3']]\n",
        b"0 [[b'j0'], [b'j1', b'j3']]\n",
    )


async def test_what_waited_as_a_process_forked_is_not_the_childs(backend):
    committed = Channels(backend).committed
    committed.publish_later([("a", b"j0")])
    assert await asyncio.to_thread(backend.begun.wait, SECONDS)
    committed.publish_later([("a", b"j1")])
    assert committed.busy
    committed.after_fork(in_child=True)
    assert not committed.busy
    backend.let.set()
    await asyncio.to_thread(published)
    assert backend.calls == [["j0"]]


async def test_a_refusal_is_logged_with_its_channel(caplog):
    class Refusing(MemoryBackend):
        def publish_many(self, messages):
            return [PublishRefused("away\n") for _ in messages]

    channels = Channels(Refusing())
    request = request_of(channels)
    with request.tm:
        await request.channels.apublish("a\n\x1b[31m", 1)
    await asyncio.to_thread(published)
    [record] = caplog.records
    assert record.getMessage() == (
        r"Not published on 'a\n\x1b[31m' after the commit: away\n (1 of 1 events)"
    )


async def test_what_fails_of_one_commit_is_one_line(caplog):
    class Refusing(MemoryBackend):
        def publish_many(self, messages):
            return ["id", PublishRefused("away"), PublishRefused("away")]

    request = request_of(Channels(Refusing()))
    await commit(request, 0, 1, 2)
    await asyncio.to_thread(published)
    [record] = caplog.records
    assert record.getMessage() == "Not published on 'a' after the commit: away (2 of 3 events)"


async def test_where_no_thread_starts_any_more_it_is_published_all_the_same(backend, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    backend.let.set()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        await commit(request_of(Channels(backend)), 0)
    assert backend.calls == [["j0"]]


LAST = """
import asyncio, sys, transaction
from pyramid.config import Configurator
from pyramid.request import Request, apply_request_extensions

config = Configurator(settings={"asgi.channels": sys.argv[1], "asgi.channels.history": "200"})
config.include("pyramid_asgi_consumers")
config.commit()

async def main():
    for number in range(100):
        request = Request.blank("/")
        request.registry = config.registry
        apply_request_extensions(request)
        request.tm = transaction.TransactionManager(explicit=True)
        with request.tm:
            await request.channels.apublish("last", number)

asyncio.run(main())
"""


@pytest.mark.redis
async def test_a_process_that_ends_loses_nothing(redis_server):
    channels = Channels(RedisBackend(redis_server.url, history=200))
    async with channels.subscribe("last") as events:
        command = [sys.executable, "-W", "ignore", "-c", LAST, redis_server.url]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)
        assert await arrived(events, 100) == list(range(100))
    await channels.backend.aclose()
