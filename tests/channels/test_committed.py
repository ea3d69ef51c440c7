"""Publishing after commits that an event loop's thread makes, and what follows them."""

import asyncio
import subprocess
import sys
import threading

import pytest

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import RedisBackend
from pyramid_asgi_consumers.exceptions import PublishRefused, PublishUnknown
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
