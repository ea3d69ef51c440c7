"""A client that leaves a plain consumer, or one of http, which does not receive."""

import asyncio
import sys

import pytest

from pyramid_asgi_consumers.connection.leaving import RequestWatcher, SenderWatcher, Sweep
from pyramid_asgi_consumers.handshake.connected import LEAVE_TIMEOUT
from pyramid_asgi_consumers.websocket.watcher import BYTES, MESSAGES, Watcher
from tests.support.events import LEFT, Broken, Futures, Server, text, until

pytestmark = pytest.mark.usefixtures("soon", "nothing_is_left_behind")


# Any websocket consumer.


class Sender:
    """A consumer that is looked after each time it sends."""

    def __init__(self, receive):
        self.watching = SenderWatcher(receive)
        self._receive = receive
        self._asked = None

    def receive(self):
        self._asked = self._receive()
        return self._asked

    async def send(self):
        await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        self._receive = self.watching.look(self._asked, now)


async def left_within(sender, seconds=20):
    end = asyncio.get_running_loop().time() + seconds
    while not sender.watching.left and asyncio.get_running_loop().time() < end:
        await sender.send()
    return sender.watching.left


@pytest.mark.parametrize("kind", [Server, Futures])
async def test_a_consumer_that_only_sends_hears_that_its_client_has_left(kind):
    server = kind()
    sender = Sender(server.receive)
    waiting = asyncio.ensure_future(sender.receive())
    await asyncio.sleep(0)
    server.put({"type": "websocket.connect"})
    assert await waiting == {"type": "websocket.connect"}
    while server.asked == 1:
        await sender.send()
    server.put(LEFT)
    assert await left_within(sender)
    assert await sender.receive() == LEFT
    await sender.watching.end()


async def test_a_consumer_that_never_receives_hears_that_its_client_has_left():
    server = Server({"type": "websocket.connect"}, LEFT)
    sender = Sender(server.receive)
    assert await left_within(sender)
    assert [await sender.receive(), await sender.receive()] == [{"type": "websocket.connect"}, LEFT]
    await sender.watching.end()


async def test_two_tasks_of_a_consumer_that_is_looked_after_may_receive():
    server = Server()
    sender = Sender(server.receive)
    while sender._receive == server.receive:
        await sender.send()
    tasks = [asyncio.ensure_future(sender.receive()) for _ in "ab"]
    for message in "ab":
        server.put(text(message))
    assert await asyncio.wait_for(asyncio.gather(*tasks), 20) == [text("a"), text("b")]
    await sender.watching.end()


async def test_a_consumer_that_waits_for_an_event_is_left_alone():
    server = Server()
    sender = Sender(server.receive)
    waiting = asyncio.ensure_future(sender.receive())
    assert not await left_within(sender, 0.02)
    server.put(LEFT)
    assert await waiting == LEFT
    assert server.asked == 1
    await sender.watching.end()


async def test_a_consumer_whose_receive_tells_nothing_of_itself_is_left_alone():
    class Awaitable:
        def __await__(self):
            yield

    sender = Sender(Awaitable)
    await sender.receive()
    assert not await left_within(sender, 0.02)


async def test_a_consumer_that_receives_now_and_then_gets_all_in_order():
    server = Server(*map(text, "abc"))
    sender = Sender(server.receive)
    assert await sender.receive() == text("a")
    while server.asked < 4:
        await sender.send()
    server.put(text("d"))
    assert [(await sender.receive())["text"] for _ in "bcd"] == list("bcd")
    await sender.watching.end()


# An http consumer.

EMPTY = {"type": "http.request", "body": b"", "more_body": False}


GONE = {"type": "http.disconnect"}


async def served(watching, call):
    """Await ``call``, as a connection awaits its consumer."""
    watching.watch(asyncio.current_task())
    try:
        await call
    except asyncio.CancelledError as error:
        if not watching.has_cancelled(error):
            raise
    finally:
        watching.stop()
        await watching.end()


async def requested(server, func, *headers):
    """Run ``func(watcher)`` for a request; return whether it was cancelled."""
    scope = {"headers": [(b"host", b"localhost"), *headers], LEAVE_TIMEOUT: 0.01}
    watching = RequestWatcher(scope, server.receive, Sweep())
    cancelled = []

    async def called():
        try:
            await func(watching)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def is_cancelled_no_more():
        await served(watching, called())
        return not getattr(asyncio.current_task(), "cancelling", int)()

    assert await asyncio.wait_for(is_cancelled_no_more(), 20)
    return bool(cancelled)


def told(watching):
    watching.told("the consumer", watching._scope, asyncio.get_running_loop())


async def forever(watching):
    await asyncio.Event().wait()


def part(body):
    return {"type": "http.request", "body": body, "more_body": True}


@pytest.mark.parametrize("events", [[EMPTY, GONE], [GONE], [part(b"1"), part(b"2"), GONE]])
async def test_an_http_consumer_is_cancelled_when_its_client_leaves(events):
    assert await requested(Server(*events), forever)


async def test_a_client_that_waits_for_leave_to_send_its_body_gets_none():
    server = Server(part(b"1"), EMPTY, GONE)

    async def func(watching):
        await asyncio.sleep(0.02)
        assert server.asked == 0
        assert await watching.receive() == part(b"1")
        await asyncio.Event().wait()

    assert await requested(server, func, (b"expect", b"100-continue"))


async def test_a_client_that_waits_for_leave_is_looked_after_once_the_response_has_started():
    async def func(watching):
        watching.started = True
        await asyncio.Event().wait()

    assert await requested(Server(GONE), func, (b"expect", b"100-continue"))


async def test_an_http_consumer_that_has_read_its_body_is_cancelled_when_its_client_leaves():
    server = Server(part(b"1"), EMPTY, GONE)

    async def func(watching):
        assert await watching.receive() == part(b"1")
        assert await watching.receive() == EMPTY
        await asyncio.Event().wait()

    assert await requested(server, func)


async def test_what_was_taken_in_advance_is_received_once():
    server = Server(EMPTY)

    async def func(watching):
        await until(lambda: server.asked == 2)
        assert await watching.receive() == EMPTY
        asyncio.get_running_loop().call_soon(server.put, GONE)
        assert await watching.receive() == GONE
        assert await watching.receive() == GONE
        # It hears of it by itself.
        await asyncio.sleep(0.02)
        assert server.asked == 2

    assert not await requested(server, func)


async def test_so_much_of_a_body_is_taken_in_advance_and_the_rest_when_it_was_received():
    parts = [part(b"x" * (BYTES // 2)) for _ in range(6)]
    server = Server(*parts)

    async def func(watching):
        await until(lambda: server.asked)
        await asyncio.sleep(0.02)
        assert server.asked == 2
        assert [await watching.receive() for _ in range(5)] == parts[:5]
        await until(lambda: server.asked == 7)
        assert await watching.receive() == parts[5]

    assert not await requested(server, func)


async def test_a_server_without_an_end_of_events_is_not_asked_for_ever():
    class Endless(Server):
        async def receive(self):
            self.asked += 1
            return EMPTY

    server = Endless()

    async def func(watching):
        await until(lambda: server.asked == MESSAGES)
        await asyncio.sleep(0.02)
        assert server.asked == MESSAGES

    assert not await requested(server, func)


async def test_several_tasks_may_wait_for_the_client_to_leave():
    server = Server(EMPTY)

    async def func(watching):
        assert await watching.receive() == EMPTY
        waiting = [asyncio.ensure_future(watching.receive()) for _ in "ab"]
        # A look meanwhile finds them waiting.
        await asyncio.sleep(0.02)
        server.put(GONE)
        server.put(GONE)
        assert await asyncio.gather(*waiting) == [GONE, GONE]

    assert not await requested(server, func)


async def test_a_consumer_that_waits_for_its_body_is_looked_at_later():
    server = Server()

    async def func(watching):
        waiting = asyncio.ensure_future(watching.receive())
        await asyncio.sleep(0.02)
        assert server.asked == 1
        server.put(EMPTY)
        assert await waiting == EMPTY
        server.put(GONE)
        await asyncio.Event().wait()

    assert await requested(server, func)


async def test_a_receive_of_an_http_consumer_that_is_cancelled_loses_nothing():
    server = Server(EMPTY)

    async def func(watching):
        await until(lambda: server.asked == 2)
        assert await watching.receive() == EMPTY
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(watching.receive(), 0.01)
        server.put(GONE)
        assert await watching.receive() == GONE

    assert not await requested(server, func)


async def test_a_response_that_has_ended_is_watched_no_longer():
    server = Server(EMPTY)

    async def func(watching):
        await until(lambda: server.asked == 2)
        watching.stop()
        server.put(GONE)
        await asyncio.sleep(0.02)
        assert await watching.receive() == EMPTY
        assert await watching.receive() == GONE

    assert not await requested(server, func)


async def test_what_the_server_raises_in_advance_is_raised_by_an_http_consumer_s_receive():
    server = Broken()

    async def func(watching):
        await until(lambda: server.asked)
        await asyncio.sleep(0.02)
        with pytest.raises(KeyError):
            await watching.receive()

    assert not await requested(server, func)
    assert server.asked == 1


async def test_an_http_consumer_that_catches_its_cancellation_ends_as_it_likes():
    ended = []

    async def func(watching):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.sleep(0.02)
        ended.append(True)

    assert not await requested(Server(GONE), func)
    assert ended == [True]


async def test_what_an_http_consumer_raises_as_it_is_cancelled_is_raised():
    async def func(watching):
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError

    with pytest.raises(KeyError):
        await requested(Server(GONE), func)


async def test_a_server_that_cancels_an_http_consumer_is_passed_on():
    server = Server(EMPTY)
    serving = asyncio.ensure_future(requested(server, forever))
    await until(lambda: server.asked == 2)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_a_server_that_cancels_besides_is_passed_on():
    async def func():
        try:
            await asyncio.Event().wait()
        finally:
            serving.cancel()
            await asyncio.sleep(0)

    watching = RequestWatcher({"headers": []}, Server(GONE).receive, Sweep())
    serving = asyncio.ensure_future(served(watching, func()))
    await asyncio.wait({serving})
    # Python 3.10 does not count cancellations.
    assert serving.cancelled() is (sys.version_info >= (3, 11))


async def test_requests_that_run_side_by_side_are_looked_at_together():
    sweep = Sweep()
    servers = [Server(EMPTY), Server(EMPTY)]
    running = [
        asyncio.ensure_future(
            served(RequestWatcher({"headers": []}, server.receive, sweep), asyncio.Event().wait())
        )
        for server in servers
    ]
    await until(lambda: [server.asked for server in servers] == [2, 2])
    for server in servers:
        server.put(GONE)
    await asyncio.wait_for(asyncio.gather(*running), 20)


async def test_a_consumer_that_goes_on_to_send_to_nobody_is_cancelled(caplog):
    async def func(watching):
        assert await watching.receive() == GONE
        told(watching)
        told(watching)
        await asyncio.Event().wait()

    assert await requested(Server(GONE), func)
    assert caplog.messages == ["the consumer goes on 0.01 s after its client has left: cancelled"]


async def test_a_consumer_that_ends_when_it_may_not_send_is_not_cancelled(caplog):
    async def func(watching):
        assert await watching.receive() == GONE
        told(watching)

    assert not await requested(Server(GONE), func)
    await asyncio.sleep(0.02)
    assert caplog.messages == []


async def test_requests_that_end_soon_are_not_looked_at():
    server = Server()

    async def ends(watching):
        await asyncio.sleep(0)

    for _ in range(100):
        assert not await requested(server, ends)
    # There is nobody to look after any more.
    await asyncio.sleep(0.02)
    assert server.asked == 0


async def test_an_event_that_comes_after_the_response_is_the_last_that_is_taken():
    server = Server(part(b"1"))

    async def func(watching):
        await until(lambda: server.asked == 2)
        watching.stop()
        server.put(part(b"2"))
        await asyncio.sleep(0.02)
        assert server.asked == 2
        assert [await watching.receive() for _ in "12"] == [part(b"1"), part(b"2")]

    assert not await requested(server, func)


async def swallowed(ended):
    """Go on as the loop ends, which cancels the wait for an event in advance, too."""
    ended.set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0.01)


def test_a_loop_that_ends_while_an_http_consumer_goes_on_logs_no_error(caplog):
    async def main():
        server, ended = Server(), asyncio.Event()
        watching = RequestWatcher({"headers": []}, server.receive, Sweep())
        kept.append(asyncio.create_task(served(watching, swallowed(ended))))
        await until(lambda: server.asked and ended.is_set())

    kept = []
    asyncio.run(main())
    assert kept[0].done()
    assert caplog.text == ""


def test_a_loop_that_ends_while_a_websocket_consumer_goes_on_logs_no_error(caplog):
    async def main():
        server, ended = Server(text("1")), asyncio.Event()
        watching = Watcher(server.receive)

        async def consumer():
            watching.watch(got.append)
            await swallowed(ended)
            got.append(await watching.receive())
            # For as long as it takes to be looked after once more.
            await until(lambda: watching._timer is None)
            with pytest.raises(asyncio.CancelledError):
                await watching.receive()
            await watching.end()

        kept.append(asyncio.create_task(consumer()))
        await until(lambda: server.asked == 2 and ended.is_set())

    kept, got = [], []
    asyncio.run(main())
    assert kept[0].done()
    assert got == [text("1")]
    assert caplog.text == ""


async def test_what_a_websocket_consumer_is_told_is_noted_where_its_server_goes_on():
    server = Server(text("a"), LEFT, LEFT)
    watching = SenderWatcher(server.receive)
    assert await watching.noted(server.receive) == text("a")
    assert not watching.left
    assert [await watching.noted(server.receive) for _ in "12"] == [LEFT, LEFT]
    assert watching.left
    await watching.end()
