import asyncio
import contextvars
import subprocess
import sys
import threading
from collections import deque
from functools import partial

import pytest

from pyramid_asgi_consumers.turns import threads_work
from pyramid_asgi_consumers.wsgi.threads import (
    Crew,
    Settler,
    ThreadPool,
    call_soon,
)
from tests.support.wsgi import Idle, wait_until


def threads_of(pool):
    return [thread for thread in threading.enumerate() if thread.name.startswith(pool.name)]


@pytest.fixture
async def pool(request):
    pool = ThreadPool(2, f"pool-of-{request.node.name}")
    yield pool
    assert await pool.drain(20)
    await wait_until(lambda: not threads_of(pool))


def test_a_pool_has_a_thread_at_least():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        ThreadPool(0)


async def test_threads_start_at_first_use_and_are_daemons(pool):
    assert threads_of(pool) == []
    assert (await pool.run(threading.current_thread)).daemon
    assert threads_of(pool)


async def test_it_is_known_whether_threads_work(pool):
    go_on = threading.Event()
    await pool.run(int)
    await wait_until(lambda: not threads_work())
    pool.submit(lambda: go_on.wait(20))
    assert threads_work()
    go_on.set()
    await wait_until(lambda: not threads_work())


async def test_jobs_run_side_by_side_in_no_more_threads_than_allowed(pool):
    barrier = threading.Barrier(2)
    running = [pool.run(barrier.wait, 20) for _ in range(10)]
    assert sorted(await asyncio.gather(*running)) == [0] * 5 + [1] * 5
    assert len(threads_of(pool)) == 2


async def test_jobs_start_in_the_order_in_which_they_came():
    pool = ThreadPool(1)
    order = []
    await asyncio.gather(*(pool.run(order.append, number) for number in range(50)))
    assert order == list(range(50))


async def test_the_thread_that_fell_idle_last_is_woken_first(pool):
    events = [threading.Event(), threading.Event()]
    idents = []
    started = threading.Barrier(3)

    def job(number):
        idents.append((number, threading.get_ident()))
        started.wait(20)
        events[number].wait(20)

    running = [asyncio.create_task(pool.run(job, number)) for number in range(2)]
    await asyncio.to_thread(started.wait, 20)
    for number in range(2):
        events[number].set()
        await running[number]
        await wait_until(lambda number=number: len(pool._crew.idle) == number + 1)
    assert await pool.run(threading.get_ident) == dict(idents)[1]


async def test_a_job_runs_with_the_contextvars_of_its_caller(pool):
    variable = contextvars.ContextVar("variable")
    variable.set("the caller's")
    assert await pool.run(variable.get) == "the caller's"


async def test_a_thread_survives_what_its_job_raises(caplog):
    pool = ThreadPool(1)

    def fails():
        raise SystemExit(3)

    pool.submit(fails)
    assert await pool.run(lambda: "next") == "next"
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_run_raises_what_the_function_raised(pool):
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 / 0)


@pytest.mark.parametrize("error", [StopIteration, SystemExit])
async def test_what_an_event_loop_cannot_raise_becomes_the_cause_of_an_error(pool, error):
    def fails():
        raise error

    with pytest.raises(RuntimeError, match=error.__name__) as raised:
        await pool.run(fails)
    assert type(raised.value.__cause__) is error


async def test_a_caller_that_was_cancelled_is_not_answered(pool):
    release = threading.Event()
    task = asyncio.create_task(pool.run(release.wait, 20))
    await wait_until(lambda: threads_of(pool))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()


async def test_drain_without_use_has_nothing_to_wait_for():
    assert await ThreadPool(1).drain(0)


async def test_drain_waits_for_jobs_and_ends_the_threads(pool):
    ended = []
    release = threading.Event()

    def job(number):
        release.wait(20)
        ended.append(number)

    for number in range(5):
        pool.submit(lambda number=number: job(number))
    draining = asyncio.create_task(pool.drain(20))
    await asyncio.sleep(0)
    release.set()
    assert await draining
    assert sorted(ended) == [0, 1, 2, 3, 4]
    await wait_until(lambda: not threads_of(pool))


async def test_drain_starts_the_threads_that_waiting_jobs_need():
    pool = ThreadPool(5, "draining")
    await pool.run(int)
    side_by_side = threading.Barrier(5)
    for _ in range(5):
        pool.submit(partial(side_by_side.wait, 20))
    assert await pool.drain(20)
    assert not side_by_side.broken


async def test_drain_leaves_a_job_that_hangs_and_the_pool_works_on(pool):
    release = threading.Event()
    pool.submit(lambda: release.wait(20))
    assert not await pool.drain(0.01)
    assert await pool.run(lambda: "again") == "again"
    release.set()


async def test_a_job_that_comes_while_its_thread_falls_idle_is_done():
    done = threading.Event()

    class Late(deque):
        """Gets a job the moment after it was found to have none."""

        def popleft(self):
            late = [] if self or done.is_set() else [done.set]
            try:
                return super().popleft()
            finally:
                self.extend(late)

    crew = Crew(1, "late")
    crew.jobs = Late()
    crew.submit(int)
    assert await asyncio.to_thread(done.wait, 20)
    assert await crew.drain(20)


async def test_jobs_wait_where_no_thread_can_be_started_until_one_can(pool, caplog):
    release = threading.Event()
    side_by_side = threading.Barrier(2)
    first = asyncio.create_task(pool.run(release.wait, 20))
    await wait_until(lambda: threads_of(pool) and not pool._crew.waking)
    before = threading.stack_size(2**46)
    try:
        others = [asyncio.create_task(pool.run(side_by_side.wait, 20)) for _ in range(2)]
        await asyncio.sleep(0)
    finally:
        threading.stack_size(before)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    release.set()
    await asyncio.gather(first, *others)


async def test_without_any_thread_the_job_is_refused(pool):
    before = threading.stack_size(2**46)
    try:
        with pytest.raises(RuntimeError, match="thread"):
            await pool.run(print)
        assert await pool.drain(0)
    finally:
        threading.stack_size(before)
    assert await pool.run(lambda: "later") == "later"


def test_a_job_that_relied_on_a_thread_that_cannot_be_started_wakes_an_idle_one(monkeypatch):
    crew = Crew(3, "failing")
    crew.idle = Idle()
    hold, done = threading.Event(), threading.Event()
    both = threading.Barrier(3)
    begun = threading.Semaphore(0)

    def job():
        begun.release()
        both.wait(20)

    for _ in range(2):
        crew.submit(job)
        assert begun.acquire(timeout=20)
    both.wait(20)

    def start(thread):
        # Both threads have fallen idle, and a job has come that has woken none of them.
        for _ in range(2):
            assert crew.idle.fallen.acquire(timeout=20)
        crew.submit(done.set)
        assert crew.waking
        raise RuntimeError("can't start new thread")

    with crew.lock:
        crew.waking = True
        crew.threads += 1
    monkeypatch.setattr(threading.Thread, "start", start)
    crew.start(hold.set)
    assert done.wait(20)


def test_a_loop_that_has_closed_takes_no_call():
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    settler = Settler(loop)
    loop.close()
    assert not call_soon(loop, print)
    assert not settler.settle(future)
    assert not settler.settle(future)
    assert not future.done()


def test_a_loop_that_has_closed_with_calls_left_takes_no_more():
    loop = asyncio.new_event_loop()
    settler = Settler(loop)
    assert settler.settle(loop.create_future())
    assert settler.settle(loop.create_future())
    loop.close()
    assert not settler.settle(loop.create_future())
    assert not settler.settle(loop.create_future())


async def test_futures_that_are_settled_together_cost_one_call(monkeypatch):
    loop = asyncio.get_running_loop()
    calls = []
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *call: calls.append(call))
    settler = Settler(loop)
    for _ in range(2):
        futures = [loop.create_future() for _ in range(3)]
        futures[1].cancel()
        assert all(settler.settle(future) for future in futures)
        [(call, *arguments)] = calls
        call(*arguments)
        assert [future.done() for future in futures] == [True] * 3
        calls.clear()


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("size", [1, 2, 20])
async def test_every_job_is_done_and_every_future_settled_however_threads_switch(size):
    loop = asyncio.get_running_loop()
    settler = Settler(loop)
    pool = ThreadPool(size)
    for number in range(200):
        futures = [loop.create_future() for _ in range(number % 50 + 1)]
        for future in futures:
            pool.submit(partial(settler.settle, future))
        await asyncio.wait_for(asyncio.gather(*futures), 20)
    assert await pool.drain(20)


def test_a_forked_process_has_threads_of_its_own():
    # In a process of its own: to fork is to copy whatever threads there are.
    script = """
import asyncio, os, threading
from pyramid_asgi_consumers.wsgi.threads import ThreadPool

async def use(pool):
    assert await asyncio.wait_for(pool.run(os.getpid), 10) == os.getpid()

pool = ThreadPool(1)
asyncio.run(use(pool))
release = threading.Event()
pool.submit(release.wait)
child = os.fork()
if child:
    release.set()
    assert os.waitpid(child, 0)[1] == 0, "the child failed"
    print("both")
else:
    status = 1
    try:
        assert asyncio.run(pool.drain(0))
        asyncio.run(use(pool))
        assert asyncio.run(pool.drain(10))
        status = 0
    finally:
        os._exit(status)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "both\n", done.stderr


def test_threads_that_gevent_has_patched_are_an_error_at_start():
    # In a process of its own: what is patched stays so.
    script = """
import asyncio
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationError
from pyramid_asgi_consumers.wsgi.threads import ThreadPool
import gevent.monkey

def make_app():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    return config.make_asgi_app()

gevent.monkey.patch_all(thread=False)
pool = ThreadPool(1)
print(asyncio.run(pool.run(str, make_app().registry.package_name)))
gevent.monkey.patch_thread()
try:
    make_app()
except ConfigurationError as error:
    print(error)
try:
    asyncio.run(ThreadPool(1).run(print, "a job"))
except RuntimeError as error:
    print(error)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    error = (
        "worker threads are needed, but gevent.monkey has patched threading, so views would never"
        " run: serve this application in a process that is not patched, or with"
        " patch_all(thread=False)"
    )
    assert done.stdout.splitlines()[1:] == [f"make_asgi_app: {error}", error], done.stderr
