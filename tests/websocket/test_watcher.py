"""A client that leaves a websocket's function which does not receive."""

import asyncio
from string import ascii_letters

import pytest

from pyramid_asgi_consumers.websocket import watcher
from pyramid_asgi_consumers.websocket.watcher import BYTES, MESSAGES, Watcher
from tests.support.events import LEFT, Broken, Futures, Server, text, until

pytestmark = pytest.mark.usefixtures("soon", "nothing_is_left_behind")


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
