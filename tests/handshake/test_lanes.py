import asyncio
import threading
from functools import partial

import pytest

from pyramid_asgi_consumers.exceptions import ClientDisconnected
from pyramid_asgi_consumers.handshake.lanes import WATCH_AFTER, Lane
from pyramid_asgi_consumers.wsgi import threads
from pyramid_asgi_consumers.wsgi.threads import ThreadPool
from tests.support.wsgi import wait_until


@pytest.fixture
async def lanes():
    """``lanes(size)`` are the two halves of a pool of so many threads."""
    pools, release = [], threading.Event()

    def make(size):
        pools.append(ThreadPool(size, "lanes"))
        return [Lane(pools[-1], size - size // 2, purpose) for purpose in ("first", "second")]

    make.release = release
    yield make
    release.set()
    for pool in pools:
        assert await pool.drain(20)


async def busy(lane, jobs, release):
    """Have ``lane`` do so many jobs that wait for ``release``; return them when no more begin."""
    begun = []

    def job(number):
        begun.append(number)
        release.wait(20)
        return number

    running = [asyncio.create_task(lane.run(job, number)) for number in range(jobs)]
    await wait_until(lambda: len(begun) == min(jobs, lane.most))
    return running


async def at_once():
    return True


async def not_known():
    return False


@pytest.mark.parametrize("size", [2, 3, 8, 9])
async def test_jobs_of_one_lane_leave_half_of_the_threads_to_the_other(lanes, size):
    first, second = lanes(size)
    running = await busy(first, 20, lanes.release)
    side_by_side = threading.Barrier(size // 2)
    await asyncio.gather(*(second.run(side_by_side.wait, 20) for _ in range(size // 2)))
    lanes.release.set()
    assert await asyncio.gather(*running) == list(range(20))


async def test_of_one_thread_two_lanes_take_turns(lanes):
    first, second = lanes(1)
    (blocked,) = await busy(first, 1, lanes.release)
    order = []
    waiting = [first.run(order.append, f"first {number}") for number in range(3)]
    waiting += [second.run(order.append, f"second {number}") for number in range(3)]
    waiting = [asyncio.create_task(each) for each in waiting]
    await asyncio.sleep(0)
    lanes.release.set()
    await asyncio.gather(blocked, *waiting)
    assert [each for each in order if "first" in each] == ["first 0", "first 1", "first 2"]
    assert [each for each in order if "second" in each] == ["second 0", "second 1", "second 2"]
    assert order[0] == "second 0"
    assert order[1] == "first 0"


async def test_what_a_job_returns_or_raises_comes_back(lanes):
    lane, _ = lanes(2)
    assert await lane.run(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await lane.run(int, "x", left=at_once)


async def test_a_job_whose_caller_is_cancelled_before_it_begins_never_does(lanes):
    lane, _ = lanes(2)
    running = await busy(lane, 1, lanes.release)
    begun = []
    waiting = [asyncio.create_task(lane.run(begun.append, number)) for number in range(4)]
    await asyncio.sleep(0)
    for each in waiting[::2]:
        each.cancel()
    await asyncio.wait(waiting[::2])
    lanes.release.set()
    await asyncio.gather(*running, waiting[1], waiting[3])
    assert begun == [1, 3]


async def test_a_job_whose_caller_is_cancelled_while_it_runs_goes_on(lanes):
    lane, _ = lanes(2)
    ended = []

    def job():
        lanes.release.wait(20)
        ended.append(True)
        raise ValueError("heard by nobody")

    async def never():
        watched.set()
        await asyncio.Event().wait()

    watched = asyncio.Event()
    running = asyncio.create_task(lane.run(job, left=never))
    await asyncio.wait_for(watched.wait(), 20)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    lanes.release.set()
    await lane.run(int)
    assert ended == [True]


async def test_a_job_whose_client_leaves_before_it_begins_never_does(lanes):
    lane, _ = lanes(2)
    running = await busy(lane, 1, lanes.release)
    begun = []
    with pytest.raises(ClientDisconnected):
        await lane.run(begun.append, 1, left=at_once)
    lanes.release.set()
    await asyncio.gather(*running)
    await lane.run(begun.append, 2)
    assert begun == [2]


@pytest.mark.parametrize("left", [at_once, not_known])
async def test_a_job_that_has_begun_or_may_have_a_client_is_waited_for(lanes, left):
    lane, _ = lanes(2)
    begun = threading.Event()

    def job():
        begun.set()
        return lanes.release.wait(20)

    if left is not_known:
        await busy(lane, 1, lanes.release)
    running = asyncio.create_task(lane.run(job, left=left))
    if left is at_once:
        await asyncio.to_thread(begun.wait, 20)
    done, _ = await asyncio.wait([running], timeout=3 * WATCH_AFTER)
    assert not done
    lanes.release.set()
    assert await running is True


async def test_a_lane_works_on_after_its_pool_was_drained(lanes):
    lane, _ = lanes(2)
    running = await busy(lane, 5, lanes.release)
    draining = asyncio.create_task(lane.pool.drain(20))
    await asyncio.sleep(0)
    lanes.release.set()
    assert await draining
    assert await asyncio.gather(*running) == list(range(5))
    assert await lane.run(int, "7") == 7


async def test_without_any_thread_a_job_is_refused(lanes):
    lane, _ = lanes(2)
    before = threading.stack_size(2**46)
    try:
        with pytest.raises(RuntimeError, match="thread"):
            await lane.run(print)
    finally:
        threading.stack_size(before)
    assert await lane.run(int, "7") == 7


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("size", [1, 2, 5])
async def test_every_job_of_every_lane_is_done_however_threads_switch(lanes, size):
    both = lanes(size)
    for number in range(50):
        jobs = [lane.run(partial(int, str(n))) for n in range(number + 1) for lane in both]
        done = await asyncio.wait_for(asyncio.gather(*jobs), 20)
        assert done == [n for n in range(number + 1) for _ in both]


# What is said of jobs that wait.


def add(lane, release):
    return asyncio.create_task(lane.run(release.wait, 20))


async def test_jobs_that_wait_for_a_lane_are_said_once_a_minute(lanes, caplog):
    first, second = lanes(2)
    running = await busy(first, 4, lanes.release)
    await wait_until(lambda: caplog.messages)
    assert "Each of the 1 threads for first has been busy for 0." in caplog.text
    assert caplog.messages[0].endswith(" s, and 3 more wait")
    running += [add(first, lanes.release), *await busy(second, 2, lanes.release)]
    await wait_until(lambda: "for second" in caplog.text)
    assert len(caplog.messages) == 2
    lanes.release.set()
    await asyncio.gather(*running)


async def test_a_minute_later_they_are_said_again(lanes, caplog, monkeypatch):
    monkeypatch.setattr(threads, "LOG_INTERVAL", 0)
    lane, _ = lanes(2)
    running = await busy(lane, 2, lanes.release)
    await wait_until(lambda: caplog.messages)
    running.append(add(lane, lanes.release))
    await wait_until(lambda: len(caplog.messages) == 2)
    assert caplog.messages[1].endswith("and 2 more wait")
    lanes.release.set()
    await asyncio.gather(*running)


async def test_jobs_that_soon_find_a_thread_are_not_worth_a_word(lanes, caplog):
    first, second = lanes(2)
    await asyncio.gather(*(first.run(int) for _ in range(20)))
    running = await busy(second, 2, lanes.release)
    await wait_until(lambda: caplog.messages)
    assert ["for second" in message for message in caplog.messages] == [True]
    lanes.release.set()
    await asyncio.gather(*running)


async def test_of_one_thread_the_lane_that_waits_for_the_other_says_so(lanes, caplog):
    first, second = lanes(1)
    running = await busy(first, 1, lanes.release)
    running.append(add(second, lanes.release))
    await wait_until(lambda: caplog.messages)
    assert "for second has" in caplog.text
    lanes.release.set()
    await asyncio.gather(*running)


async def test_jobs_that_wait_for_a_pool_are_said_too(caplog):
    pool, release = ThreadPool(2, "crowded", "views"), threading.Event()
    for _ in range(5):
        pool.submit(partial(release.wait, 20))
    await wait_until(lambda: caplog.messages)
    (message,) = caplog.messages
    assert message.startswith("Each of the 2 threads for views has been busy for 0.")
    assert message.endswith(" s, and 3 more wait")
    release.set()
    assert await pool.drain(20)


def test_where_no_event_loop_runs_nobody_says_so(caplog):
    pool, done = ThreadPool(1, "alone", "views"), threading.Semaphore(0)
    for _ in range(5):
        pool.submit(done.release)
    for _ in range(5):
        assert done.acquire(timeout=20)
    assert caplog.messages == []
