"""How the chunks of a response go from a thread to the event loop, and how far ahead it may be."""

import asyncio
import io
import threading
from collections import Counter

import pytest

from pyramid_asgi_consumers import WSGIBridge
from pyramid_asgi_consumers.wsgi import handover
from pyramid_asgi_consumers.wsgi.handover import AHEAD, Ahead, ClientGone, Handover
from pyramid_asgi_consumers.wsgi.sources import FileWrapper
from pyramid_asgi_consumers.wsgi.threads import Settler
from tests.support.asgi import body_of, http_scope, run
from tests.support.wsgi import (
    KIB,
    Exchange,
    answers,
    raising,
    wait_until,
)

# Through the bridge: messages and hops


async def test_a_response_of_one_chunk_is_two_messages():
    sent = await run(WSGIBridge(answers([b"hello"], [("X-A", "1"), ("X-A", "\xe9")])), http_scope())
    assert sent == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"x-a", b"1"), (b"x-a", b"\xe9"), (b"content-length", b"5")],
        },
        {"type": "http.response.body", "body": b"hello", "more_body": False},
    ]


async def test_a_response_of_one_chunk_costs_one_hop_there_and_one_back(monkeypatch):
    bridge = WSGIBridge(answers([b"hello"]))
    await run(bridge, http_scope())
    # An answer may be seen before the call that tells of it.
    await wait_until(lambda: not bridge._settler._called)
    loop = asyncio.get_running_loop()
    hops = []

    def counting(name, function):
        def counted(*args):
            hops.append(name)
            return function(*args)

        return counted

    monkeypatch.setattr(bridge.pool, "submit", counting("there", bridge.pool.submit))
    back = counting("back", loop.call_soon_threadsafe)
    monkeypatch.setattr(loop, "call_soon_threadsafe", back)
    await run(bridge, http_scope())
    await wait_until(lambda: hops[1:])
    assert hops == ["there", "back"]


async def test_a_chunk_is_sent_when_it_is_made():
    first_sent = threading.Event()

    def chunks():
        yield b"one"
        assert first_sent.wait(20)
        yield b"two"

    exchange = Exchange(WSGIBridge(answers(chunks())))
    exchange.taking.set()
    await wait_until(lambda: body_of(exchange.sent) == b"one")
    first_sent.set()
    await exchange.task
    assert body_of(exchange.sent) == b"onetwo"


async def test_small_chunks_that_wait_are_sent_together():
    made = threading.Event()

    def chunks():
        for _ in range(100):
            yield b"x" * 1000
        made.set()

    exchange = Exchange(WSGIBridge(answers(chunks())))
    await wait_until(made.is_set)
    exchange.taking.set()
    await exchange.task
    assert len(body_of(exchange.sent)) == 100_000
    assert len(exchange.sent) <= 5


async def test_a_thread_is_only_so_far_ahead_of_a_stalled_client():
    made = []

    def chunks():
        for _ in range(100):
            made.append(1)
            yield b"x" * (64 * KIB)

    exchange = Exchange(WSGIBridge(answers(chunks())))
    ahead = AHEAD // (64 * KIB)
    await wait_until(lambda: len(made) > ahead)
    assert len(made) <= ahead + 2
    exchange.taking.set()
    await asyncio.wait_for(exchange.task, 20)
    assert len(body_of(exchange.sent)) == 100 * 64 * KIB


async def test_many_responses_share_what_they_may_be_ahead(monkeypatch):
    monkeypatch.setattr(handover, "ALL_AHEAD", 20 * KIB)
    monkeypatch.setattr(handover, "LEAST_AHEAD", KIB)
    made = Counter()
    expected = Counter()
    entered = [threading.Event() for _ in range(17)]

    def answer(environ, start_response):
        number = int(environ["QUERY_STRING"])
        start_response("200 OK", [])
        for each in range(400):
            made[number] += 1
            yield b"x" * KIB
            if not each:
                entered[number].wait(20)

    bridge = WSGIBridge(answer, 20)
    exchanges = []
    for number in range(1, 17):
        query = str(number).encode()
        exchanges.append(Exchange(bridge, scope=http_scope(query_string=query)))
        await wait_until(lambda number=number: bridge._ahead._responses == number)
        entered[number].set()
        # The first is taken, and that which does not fit waits.
        expected[number] = 1 + max(1, 20 // number) + 1
        await wait_until(lambda number=number: made[number] == expected[number])
    await asyncio.sleep(0.05)
    assert made == expected
    for exchange in exchanges:
        exchange.taking.set()
    await asyncio.wait_for(asyncio.gather(*(exchange.task for exchange in exchanges)), 20)
    assert [len(body_of(exchange.sent)) for exchange in exchanges] == [400 * KIB] * 16
    assert bridge._ahead.most == 20 * KIB


@pytest.mark.parametrize("chunks", [[], [b"", b""], FileWrapper(io.BytesIO(b"x" * KIB))])
async def test_a_response_without_chunks_takes_no_share(chunks):
    bridge = WSGIBridge(answers(chunks))
    exchange = Exchange(bridge)
    await wait_until(lambda: exchange.sending)
    assert bridge._ahead._responses == 0
    exchange.taking.set()
    await asyncio.wait_for(exchange.task, 20)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("size", [1, 1000, 100_000])
async def test_chunks_arrive_whole_and_in_order_however_threads_switch(size, monkeypatch):
    monkeypatch.setattr(handover, "AHEAD", 5 * size)

    def answer(environ, start_response):
        start_response("200 OK", [])
        return (bytes([number % 256]) * size for number in range(300))

    bridge = WSGIBridge(answer, 4)
    expected = b"".join(bytes([number % 256]) * size for number in range(300))
    for _ in range(5):
        answered = await asyncio.gather(*(run(bridge, http_scope()) for _ in range(8)))
        assert [body_of(sent) for sent in answered] == [expected] * 8


@pytest.mark.usefixtures("switching")
async def test_a_response_that_fails_never_ends_as_if_whole_however_threads_switch():
    def app(environ, start_response):
        start_response("200 OK", [])
        return raising(b"a")

    bridge = WSGIBridge(app, 4)

    async def fails():
        exchange = Exchange(bridge)
        exchange.taking.set()
        with pytest.raises(ValueError, match="late"):
            await exchange.task
        return [message.get("more_body") for message in exchange.sent]

    for _ in range(100):
        answered = await asyncio.gather(*(fails() for _ in range(8)))
        assert [True in sent and False not in sent for sent in answered] == [True] * 8


async def test_a_chunk_greater_than_the_bound_passes():
    chunks = [b"x" * (3 * AHEAD), b"y" * (2 * AHEAD)]
    assert body_of(await run(WSGIBridge(answers(chunks)), http_scope())) == b"".join(chunks)


# The handover alone


class Moment:
    """A lock at which something happens just before it is taken."""

    def __init__(self, happens):
        self.lock = threading.Lock()
        self.happens = happens

    def __enter__(self):
        happens, self.happens = self.happens, int
        happens()
        self.lock.acquire()

    def __exit__(self, *exc_info):
        self.lock.release()


@pytest.fixture
async def handed():
    """A handover of which the loop's side does not wait."""
    made = Handover(Settler(asyncio.get_running_loop()), Ahead())
    made._news = None
    return made


async def test_a_chunk_that_comes_just_before_it_is_waited_for_is_taken(handed):
    handed._lock = Moment(lambda: handed.put(b"a"))
    assert await asyncio.wait_for(handed.wait(), 20) == (b"a", False)


async def test_a_thread_does_not_wait_for_room_that_was_made_just_before(
    monkeypatch,
):
    monkeypatch.setattr(handover, "AHEAD", 2)
    handed = Handover(Settler(asyncio.get_running_loop()), Ahead())
    handed._lock = Moment(handed.take)
    await asyncio.wait_for(asyncio.to_thread(handed.put, b"abc"), 20)
    handed.put(b"d")
    assert handed.take() == (b"d", False)


async def test_the_end_that_comes_just_before_it_is_waited_for_is_taken(handed):
    def end():
        assert handed.finish(None)

    handed._lock = Moment(end)
    assert await asyncio.wait_for(handed.wait(), 20) == (b"", True)
    assert handed.is_over()


async def test_an_error_comes_behind_what_was_put_before_it_and_is_heard_once(handed):
    error = ValueError("late")
    handed.put(b"a")
    assert handed.finish(error, rest=b"b")
    assert handed.take() == (b"ab", False)
    assert not handed.is_over()
    with pytest.raises(ValueError, match="late"):
        handed.take()
    assert handed.is_over()
    handed.hear()
    assert handed.unheard() is None


async def test_an_error_that_nobody_has_heard_of_is_taken_once(handed):
    error = ValueError("late")
    handed.leave()
    assert not handed.finish(error)
    assert handed.unheard() is error
    assert handed.unheard() is None


async def test_who_has_left_takes_nothing_and_gets_nothing(handed):
    handed.put(b"a")
    handed.leave()
    assert handed.take() == (b"", True)
    for chunk in (b"b", b""):
        with pytest.raises(ClientGone):
            handed.put(chunk)
    assert not handed.finish(None, whole=b"abc")


async def test_who_leaves_lets_the_thread_go_that_waits_for_room(handed, monkeypatch):
    handed._ahead.most = 2
    put = asyncio.ensure_future(asyncio.to_thread(handed.put, b"abc"))
    await wait_until(lambda: handed._room is not None)
    handed.leave()
    await asyncio.wait_for(put, 20)


async def test_a_wait_for_the_first_chunk_ends_with_it_or_with_the_end():
    for end in (False, True):
        made = Handover(Settler(asyncio.get_running_loop()), Ahead())
        begun = asyncio.ensure_future(made.begin())
        await asyncio.sleep(0)
        made.finish(None, whole=b"a") if end else made.put(b"a")
        assert await asyncio.wait_for(begun, 20) is not end


def test_a_loop_that_has_closed_is_told_nothing_and_waited_for_no_more():
    async def make():
        settler = Settler(asyncio.get_running_loop())
        return Handover(settler, Ahead()), Handover(settler, Ahead())

    one, other = asyncio.run(make())
    with pytest.raises(ClientGone):
        one.put(b"a")
    assert not other.finish(None, file=object())
    assert other.file is None
