"""A client that leaves a consumer which does not receive."""

import asyncio
import sys
from string import ascii_letters

import pytest

from pyramid_asgi_consumers.websocket import watcher
from pyramid_asgi_consumers.websocket.watcher import (
    BYTES,
    MESSAGES,
    RequestWatcher,
    SenderWatcher,
    Sweep,
    Watcher,
)

LEFT = {"type": "websocket.disconnect", "code": 1001}


def text(message):
    return {"type": "websocket.receive", "text": message}


class Server:
    """A server's ``receive``: what ``put`` was given, and how often it was asked."""

    def __init__(self, *events):
        self.asked = 0
        self.queue = asyncio.Queue()
        for event in events:
            self.queue.put_nowait(event)
        self.put = self.queue.put_nowait

    async def receive(self):
        self.asked += 1
        return await self.queue.get()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(watcher, "INTERVAL", 0.001)


@pytest.fixture(autouse=True)
async def nothing_is_left_behind():
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def until(condition):
    async def met():
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(met(), 20)


async def watched(server, func):
    """Run ``func(watcher)``; return the events with which the client left it."""
    left = []
    watching = Watcher(server.receive)
    run = watching.run(lambda: func(watching), left.append, "func", 60)
    await asyncio.wait_for(run, 20)
    return left


def test_a_client_is_looked_after_within_a_second(monkeypatch):
    monkeypatch.undo()
    assert watcher.INTERVAL <= 0.5


async def test_a_function_that_is_busy_is_cancelled_when_the_client_leaves():
    server = Server()
    cleaned = []

    async def func(watching):
        asyncio.get_running_loop().call_later(0.01, server.put, LEFT)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    assert (await watched(server, func), cleaned) == ([LEFT], [True])


async def test_a_function_that_is_busy_after_a_message_is_cancelled_too():
    server = Server(text("one"))

    async def func(watching):
        assert await watching.receive() == text("one")
        server.put(LEFT)
        await asyncio.Event().wait()

    assert await watched(server, func) == [LEFT]


@pytest.mark.parametrize(
    ("length", "most"), [(1, MESSAGES), (BYTES // 4, 4), (BYTES // 4 - 1, 5), (2 * BYTES, 1)]
)
@pytest.mark.parametrize("kind", ["text", "bytes"])
async def test_so_many_messages_at_most_are_taken_in_advance(length, most, kind):
    messages = [letter * length for letter in ascii_letters[: 2 * most]]
    if kind == "bytes":
        messages = [message.encode() for message in messages]
    server = Server(*({"type": "websocket.receive", kind: message} for message in messages))

    async def func(watching):
        await until(lambda: server.asked == most)
        # Many intervals go by.
        await asyncio.sleep(0.02)
        assert server.asked == most
        received = [(await watching.receive())[kind]]
        # There is room for another one.
        await until(lambda: server.asked == most + 1)
        await asyncio.sleep(0.02)
        assert server.asked == most + 1
        received += [(await watching.receive())[kind] for _ in messages[1:]]
        assert received == messages

    assert await watched(server, func) == []


async def test_a_function_that_receives_costs_no_look_ahead(monkeypatch):
    tasks = []
    server = Server()

    async def func(watching):
        monkeypatch.setattr(watcher.asyncio, "create_task", tasks.append)
        waiting = asyncio.ensure_future(watching.receive())
        await asyncio.sleep(0.02)
        server.put(text("late"))
        assert await waiting == text("late")
        monkeypatch.undo()

    assert await watched(server, func) == []
    assert (server.asked, tasks) == (1, [])


async def test_a_message_that_comes_after_the_look_ahead_began_is_received():
    server = Server()

    async def func(watching):
        await until(lambda: server.asked)
        asyncio.get_running_loop().call_soon(server.put, text("one"))
        assert await watching.receive() == text("one")
        assert server.asked == 1

    assert await watched(server, func) == []


@pytest.mark.parametrize("looked", [False, True], ids=["at the server", "at the look-ahead"])
async def test_a_receive_that_is_cancelled_loses_no_message(looked):
    server = Server()

    async def func(watching):
        if looked:
            await until(lambda: server.asked)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(watching.receive(), 0.01)
        # The next look finds the one before at work.
        await asyncio.sleep(0.01)
        server.put(text("one"))
        server.put(text("two"))
        assert await watching.receive() == text("one")
        assert await watching.receive() == text("two")

    assert await watched(server, func) == []


class Futures(Server):
    """A server whose ``receive`` gives futures, as Granian's does."""

    def receive(self):
        self.asked += 1
        self.future = asyncio.get_running_loop().create_future()
        self.put = self.future.set_result
        return self.future


async def cancelled_receive(watching, server, event=None):
    """Receive, and be cancelled: as ``event`` comes, if there is one."""
    waiting = asyncio.ensure_future(watching.receive())
    await asyncio.sleep(0)
    if event is not None:
        server.future.set_result(event)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()


async def test_a_receive_that_is_cancelled_as_its_message_comes_loses_none(monkeypatch):
    # No look ahead comes between.
    monkeypatch.setattr(watcher, "INTERVAL", 60)
    server = Futures()

    async def func(watching):
        await cancelled_receive(watching, server, text("one"))
        assert await watching.receive() == text("one")
        await cancelled_receive(watching, server)
        assert server.asked == 2

    assert await watched(server, func) == []


async def test_a_receive_that_is_cancelled_as_the_client_leaves_is_noticed(monkeypatch):
    # No look ahead comes between.
    monkeypatch.setattr(watcher, "INTERVAL", 60)
    server = Futures()

    async def func(watching):
        waiting = asyncio.ensure_future(watching.receive())
        await asyncio.sleep(0)
        server.future.set_result(LEFT)
        waiting.cancel()
        await asyncio.Event().wait()

    assert await watched(server, func) == [LEFT]


async def test_a_function_that_receives_hears_of_it_and_is_not_cancelled():
    server = Server()

    async def func(watching):
        await until(lambda: server.asked)
        asyncio.get_running_loop().call_soon(server.put, LEFT)
        assert await watching.receive() == LEFT
        watching.stop()
        await asyncio.sleep(0.02)

    assert await watched(server, func) == []


async def test_a_disconnect_that_came_as_a_receive_was_cancelled_is_not_lost():
    class Cancelling(Server):
        async def receive(self):
            event = await super().receive()
            self.waiting.cancel()
            return event

    server = Cancelling()

    async def func(watching):
        await until(lambda: server.asked)
        server.waiting = asyncio.ensure_future(watching.receive())
        await asyncio.sleep(0)
        server.put(LEFT)
        with pytest.raises(asyncio.CancelledError):
            await server.waiting
        await asyncio.Event().wait()

    assert await watched(server, func) == [LEFT]


async def test_a_receive_after_a_timeout_is_watched_again():
    server = Server()

    async def func(watching):
        with pytest.raises(asyncio.TimeoutError):
            # Longer than an interval: the look lapses meanwhile.
            await asyncio.wait_for(watching.receive(), 0.02)
        server.put(LEFT)
        await asyncio.Event().wait()

    assert await watched(server, func) == [LEFT]


async def test_nobody_is_cancelled_once_the_watch_has_stopped():
    server = Server()

    async def func(watching):
        await until(lambda: server.asked)
        watching.stop()
        server.put(LEFT)
        await until(lambda: watching._ahead.done())
        await asyncio.sleep(0.02)

    assert await watched(server, func) == []


async def test_two_receives_at_once_are_refused():
    server = Server()

    async def func(watching):
        waiting = asyncio.ensure_future(watching.receive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task is receiving"):
            await watching.receive()
        server.put(text("one"))
        assert await waiting == text("one")

    assert await watched(server, func) == []


async def test_what_the_server_raises_in_advance_is_raised_by_the_next_receive():
    class Broken(Server):
        async def receive(self):
            self.asked += 1
            raise KeyError

    server = Broken()

    async def func(watching):
        await until(lambda: watching._ahead is not None and watching._ahead.done())
        with pytest.raises(KeyError):
            await watching.receive()

    assert await watched(server, func) == []


async def test_what_the_function_raises_is_raised():
    async def func(watching):
        raise KeyError

    with pytest.raises(KeyError):
        await watched(Server(), func)


@pytest.mark.parametrize("looked", [False, True])
async def test_a_server_that_cancels_is_passed_on(looked):
    server = Server()
    cleaned = []
    started = asyncio.Event()

    async def func(watching):
        if looked:
            await until(lambda: server.asked)
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    watching = Watcher(server.receive)
    served = asyncio.ensure_future(watching.run(lambda: func(watching), print, "func", 60))
    await started.wait()
    served.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served
    assert cleaned == [True]


async def test_a_function_that_catches_its_cancellation_ends_as_it_likes():
    server = Server(LEFT)

    async def func(watching):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.sleep(0.02)

    assert await watched(server, func) == [LEFT]


async def test_what_a_function_raises_as_it_is_cancelled_is_raised():
    async def func(watching):
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError

    with pytest.raises(KeyError):
        await watched(Server(LEFT), func)


async def test_any_awaitable_will_do():
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    assert await watched(Server(), lambda watching: done) == []


async def test_what_the_server_raises_after_messages_in_advance_comes_after_them():
    class Breaking(Server):
        async def receive(self):
            if self.asked == 2:
                self.asked = 3
                raise KeyError
            return await super().receive()

    server = Breaking(text("one"), text("two"))

    async def func(watching):
        await until(lambda: server.asked == 3)
        assert [await watching.receive() for _ in "ab"] == [text("one"), text("two")]
        # It is not looked again before the function knows.
        await asyncio.sleep(0.02)
        with pytest.raises(KeyError):
            await watching.receive()

    assert await watched(server, func) == []


async def test_what_a_future_of_the_server_raises_as_a_receive_is_cancelled_is_raised(monkeypatch):
    monkeypatch.setattr(watcher, "INTERVAL", 60)
    server = Futures()

    async def func(watching):
        waiting = asyncio.ensure_future(watching.receive())
        await asyncio.sleep(0)
        server.future.set_exception(KeyError())
        waiting.cancel()
        await asyncio.wait({waiting})
        with pytest.raises(KeyError):
            await watching.receive()

    assert await watched(server, func) == []


async def test_messages_in_advance_come_first_and_then_the_server_is_asked_itself(monkeypatch):
    server = Server(*map(text, ascii_letters[:MESSAGES]))

    async def func(watching):
        await until(lambda: server.asked == MESSAGES)
        monkeypatch.setattr(watcher, "INTERVAL", 60)
        for letter in ascii_letters[:MESSAGES]:
            assert await watching.receive() == text(letter)
        assert server.asked == MESSAGES
        server.put(text("late"))
        assert await watching.receive() == text("late")

    assert await watched(server, func) == []


async def test_a_task_that_the_function_has_left_behind_still_receives():
    server = Server(text("one"), text("two"))
    watching = Watcher(server.receive)

    async def func(watching):
        await until(lambda: server.asked == 3)

    await watching.run(lambda: func(watching), print, "func", 60)
    server.put(text("three"))
    assert await watching.receive() == text("three")


# A function that goes on.


async def lingering(caplog, leave_timeout, func):
    server = Server(LEFT)
    watching = Watcher(server.receive)

    async def called():
        await watching.receive()
        watching.told()
        await func(watching)

    await asyncio.wait_for(watching.run(called, print, "the function", leave_timeout), 20)
    return caplog.messages


async def test_a_function_that_goes_on_when_it_has_been_told_is_cancelled(caplog):
    cleaned = []

    async def func(watching):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    line = "the function goes on 0.01 s after its client has left: cancelled"
    assert await lingering(caplog, 0.01, func) == [line]
    assert cleaned == [True]


async def test_a_function_that_ends_in_time_is_not_cancelled(caplog):
    async def func(watching):
        await asyncio.sleep(0.02)

    assert await lingering(caplog, 60, func) == []


async def test_a_function_that_is_told_again_has_no_more_time(caplog):
    async def func(watching):
        while True:
            watching.told()
            await asyncio.sleep(0.001)

    assert len(await lingering(caplog, 0.05, func)) == 1


async def test_a_function_that_is_cancelled_has_the_time_it_needs_to_end(caplog):
    server = Server(LEFT)
    watching = Watcher(server.receive)
    ended = []

    async def func():
        try:
            await asyncio.Event().wait()
        finally:
            watching.told()
            await asyncio.sleep(0.05)
            ended.append(True)

    await watching.run(func, lambda event: watching.told(), "func", 0.01)
    assert (ended, caplog.messages) == ([True], [])


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
    scope = {"headers": [(b"host", b"localhost"), *headers], watcher.LEAVE_TIMEOUT: 0.01}
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
    class Broken(Server):
        async def receive(self):
            self.asked += 1
            raise KeyError

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
        watching.told("the consumer")
        watching.told("the consumer")
        await asyncio.Event().wait()

    assert await requested(Server(GONE), func)
    assert caplog.messages == ["the consumer goes on 0.01 s after its client has left: cancelled"]


async def test_a_consumer_that_ends_when_it_may_not_send_is_not_cancelled(caplog):
    async def func(watching):
        assert await watching.receive() == GONE
        watching.told("the consumer")

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
