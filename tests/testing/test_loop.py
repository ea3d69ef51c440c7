"""The event loop of a test, and its end."""

import asyncio
import contextlib
import signal
import threading

import pytest

from pyramid_asgi_consumers.testing import TestApp, timeouts
from pyramid_asgi_consumers.testing.loop import LoopThread
from tests.testing.applications import accept, http_app, make, ok

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_a_thread_that_waits_runs_its_jobs(thread):
    done = []
    jobs = thread.jobs()

    def job():
        done.append(threading.current_thread())

    thread.loop.call_soon_threadsafe(thread.leave, job, jobs)
    assert thread.wait(lambda: done)
    assert done == [threading.current_thread()]


def test_each_thread_has_its_own_jobs(thread):
    mine, others = thread.jobs(), []
    other = threading.Thread(target=lambda: others.append(thread.jobs()))
    other.start()
    other.join(20)
    assert thread.jobs() is mine
    assert others[0] is not mine


def test_a_job_for_a_thread_that_has_ended_is_run_by_no_other(thread):
    jobs, ran, waited = [], [], []
    first = threading.Thread(target=lambda: jobs.append(thread.jobs()))
    first.start()
    first.join(20)
    thread.leave(lambda: ran.append(True), jobs[0])
    # It may get the identity of the first.
    second = threading.Thread(target=lambda: waited.append(thread.wait(lambda: ran, 0.01)))
    second.start()
    second.join(20)
    assert waited == [False]
    assert not thread.wait(lambda: ran, 0.01)


def test_a_thread_runs_its_jobs_whichever_loop_it_waits_for(thread):
    other, ran = LoopThread(), []
    other.loop.call_soon_threadsafe(other.leave, lambda: ran.append(True), other.jobs())
    assert thread.wait(lambda: ran, 20)
    other.close()


def test_a_job_that_is_left_from_a_loop_that_is_closed_is_dropped(thread):
    other, ran = LoopThread(), []
    other.close()
    other.leave(lambda: ran.append("other"), other.jobs())
    thread.leave(lambda: ran.append("thread"), thread.jobs())
    assert thread.wait(lambda: ran, 20)
    assert ran == ["thread"]


def test_a_thread_waits_no_longer_than_it_says(thread):
    assert not thread.wait(lambda: False, 0.01)


def test_what_ends_the_loop_is_raised_in_the_thread_that_waits_and_the_loop_goes_on(thread):
    def end():
        raise SystemExit(3)

    thread.loop.call_soon_threadsafe(end)
    with pytest.raises(SystemExit):
        thread.wait(lambda: False, 20)
    done = []
    thread.loop.call_soon_threadsafe(thread.tell, done.append, True)
    assert thread.wait(lambda: done, 20)


# Within a TestApp.


def test_an_interrupt_ends_the_consumer():
    class Interrupt(Exception):
        pass

    def interrupt(*args):
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    ended = []

    async def consumer(scope, receive, send):
        try:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    try:
        with TestApp(make(None, ("/http", "http", consumer))) as testapp:
            with pytest.raises(Interrupt):
                testapp.get("/http")
            assert ended == [True]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_task_that_is_left_is_cancelled_and_the_loop_closed():
    ended = []

    async def linger():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(asyncio.get_running_loop())

    async def consumer(scope, receive, send):
        consumer.task = asyncio.ensure_future(linger())
        await ok(send)

    http_app(consumer).get("/http")
    assert [loop.is_closed() for loop in ended] == [True]


def test_a_task_that_cannot_be_cancelled_is_named(monkeypatch):
    monkeypatch.setattr(timeouts, "TIMEOUT", 0.5)

    async def stubborn():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def consumer(scope, receive, send):
        consumer.task = asyncio.ensure_future(stubborn())
        await ok(send)

    with pytest.raises(TimeoutError, match="These tasks .* do not end.*stubborn"):
        http_app(consumer).get("/http")
    # It would be logged, in some later test, that it is still pending.
    consumer.task._log_destroy_pending = False


def test_a_consumer_that_blocks_the_loop(monkeypatch):
    release = threading.Event()

    async def consumer(scope, receive, send):
        consumer.thread = threading.current_thread()
        await accept(receive, send)
        release.wait(20)

    app = make(None, ("/ws", "websocket", consumer), **{"asgi.leave_timeout": "0.25"})
    with pytest.raises(TimeoutError, match="These tasks .* do not end.*consumer"):
        with TestApp(app).websocket("/ws"):
            monkeypatch.setattr(timeouts, "TIMEOUT", 0.5)
    release.set()
    consumer.thread.join(20)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_what_a_task_of_its_own_raises_is_raised_in_the_test(kind):
    error = kind(3)

    async def background():
        raise error

    async def consumer(scope, receive, send):
        consumer.task = asyncio.ensure_future(background())
        await asyncio.Event().wait()

    with TestApp(make(None, ("/http", "http", consumer))) as testapp:
        with pytest.raises(kind) as raised:
            testapp.get("/http")
    assert raised.value is error
    assert consumer.task.exception() is error
