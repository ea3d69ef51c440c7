"""A client that leaves a function which does not receive."""

import asyncio

import pytest

from pyramid_asgi_consumers import watcher
from pyramid_asgi_consumers.watcher import Watcher

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
    await asyncio.wait_for(watching.run(lambda: func(watching), left.append), 20)
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


async def test_one_message_at_most_is_taken_in_advance():
    server = Server(*map(text, "abcde"))

    async def func(watching):
        await until(lambda: server.asked)
        # Many intervals go by.
        await asyncio.sleep(0.02)
        assert server.asked == 1
        received = [(await watching.receive())["text"] for _ in "abc"]
        await until(lambda: server.asked == 4)
        await asyncio.sleep(0.02)
        assert server.asked == 4
        received += [(await watching.receive())["text"] for _ in "de"]
        assert "".join(received) == "abcde"

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
    served = asyncio.ensure_future(watching.run(lambda: func(watching), print))
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
