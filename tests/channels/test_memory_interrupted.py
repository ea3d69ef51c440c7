"""``memory://`` where something publishes in the midst of it: finalizers, log handlers, forks."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections import deque

import pytest

from pyramid_asgi_consumers.channels import Channels
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from tests.support.channels import Memory, handled_by, published

SECONDS = 20


class Interrupted(str):
    """The name of a channel, at whose first use ``then`` is called."""

    __slots__ = ("then",)
    __eq__ = str.__eq__

    def __hash__(self):
        then, self.then = self.then, None
        if then is not None:
            then()
        return super().__hash__()


def interrupted(name, then):
    channel = Interrupted(name)
    channel.then = then
    return channel


def stored(backend, name):
    return [row[2].data for row in backend._channels[name].rows]


def test_what_interrupts_a_publish_is_published_behind_it():
    backend = MemoryBackend(history=10)
    ids = []

    def publish():
        ids.extend(backend.publish_many([("a", b"j1"), ("b", b"j2"), ("a", b"j3")]))

    (own,) = backend.publish_many([(interrupted("a", publish), b"j0")])
    assert stored(backend, "a") == [0, 1, 3] and stored(backend, "b") == [2]
    assert own == backend._channels["a"].rows[0][2].id
    assert ids == ["", "", ""]
    assert backend.publish_many([("a", b"j4")]) != [""]


async def test_what_interrupts_a_subscription_arrives():
    channels = Channels(MemoryBackend())

    def publish():
        channels.backend.publish_many([("a", b"j1")])

    name = interrupted("b", None)
    async with channels.subscribe("a") as events:
        subscription = channels.subscribe(name)
        name.then = publish
        async with subscription:
            assert (await asyncio.wait_for(events.__anext__(), SECONDS)).data == 1


class Checked(deque):
    """Calls ``then`` when somebody looks whether it is empty."""

    then = None

    # Not __len__, which Python 3.10 does not ask.
    def __bool__(self):
        then, self.then = self.then, None
        if then is not None:
            then()
        return len(self) > 0


def test_what_interrupts_the_end_of_a_publish_comes_behind_what_was_deferred():
    backend = MemoryBackend(history=10)
    backend._deferred = Checked()

    def publish():
        backend._deferred.append(("a", b"j1"))
        backend.publish_many([("a", b"j2")])

    def publish_soon():
        backend._deferred.then = publish

    backend._deferred.then = publish_soon
    backend.publish_many([("a", b"j0")])
    assert stored(backend, "a") == [0, 1, 2]


def test_a_loop_that_another_thread_has_woken_is_let_be():
    class Full(deque):
        def __bool__(self):
            return True

    backend = MemoryBackend()
    backend._wakes = Full()
    backend._wake()


async def test_who_interrupts_cannot_subscribe():
    channels = Channels(MemoryBackend())
    errors = []

    def subscribe():
        with pytest.raises(RuntimeError, match="can publish, but not subscribe") as raised:
            channels.backend.attach(channels.subscribe("a")).send(None)
        errors.append(raised.value)

    published(channels.backend, (interrupted("a", subscribe), 0))
    assert len(errors) == 1
    assert await Memory().is_empty(channels.backend)


async def test_who_interrupts_sees_where_a_channel_stands_and_who_is_there():
    backend = MemoryBackend(history=10)
    seen = []

    def look():
        seen.extend([backend.position_now("a"), backend.present_now("a")])

    async with Channels(backend).subscribe("a", presence="ann"):
        (own,) = published(backend, (interrupted("a", look), 0))
    before, present = seen
    assert present == ["ann"]
    assert before < own == backend.position_now("a")


def test_a_payload_that_is_none_leaves_the_backend_in_order():
    backend = MemoryBackend(history=1)
    with pytest.raises(ValueError, match="neither bytes nor JSON"):
        backend.publish_many([("a", b"x")])
    backend.publish_many([("a", b"j1")])
    assert stored(backend, "a") == [1]


class Session:
    """Publishes when the garbage collector finds it."""

    def __init__(self, publish):
        self.cycle = self
        self.publish = publish

    def __del__(self):
        self.publish([("gone", b"j1")])


def test_finalizers_may_publish_whenever_garbage_is_collected():
    backend = MemoryBackend(history=10)

    def work():
        for number in range(20_000):
            Session(backend.publish_many)
            backend.publish_many([(f"x{number % 1000}", b"j1")])

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(SECONDS)
    assert not worker.is_alive()
    assert backend._channels["gone"].position[1] > 10_000


async def test_what_is_published_of_an_overflow_comes_behind_what_is_being_delivered():
    channels = Channels(MemoryBackend())

    class Publishes(logging.Handler):
        def emit(self, record):
            channels.backend.publish_many([("b", b"j99")])

    handler = Publishes()
    with handled_by(handler):
        async with channels.subscribe("a", max_queue=1), channels.subscribe("b") as events:
            numbers = [("a", b"j0"), *(("b", b"j%d" % number) for number in range(3))]
            channels.backend.publish_many([("a", b"j0"), *numbers])
            # Entering delivers what was published, which logs an overflow of the first.
            async with channels.subscribe("c", "b") as newcomer:
                found = [await asyncio.wait_for(events.__anext__(), SECONDS) for _ in range(4)]
                assert [event.data for event in found] == [0, 1, 2, 99]
                assert (await asyncio.wait_for(newcomer.__anext__(), SECONDS)).data == 99


async def test_a_log_handler_on_the_loop_publishes_in_order():
    channels = Channels(MemoryBackend())

    class Publishes(logging.Handler):
        def emit(self, record):
            with pytest.raises(StopIteration):
                channels.backend.publish("b", b"j99").send(None)
                raise StopIteration

    handler = Publishes()
    with handled_by(handler):
        async with channels.subscribe("a", max_queue=1), channels.subscribe("b") as events:
            numbers = [("a", b"j0"), *(("b", b"j%d" % number) for number in range(3))]
            channels.backend.publish_many([("a", b"j0"), *numbers])
            found = [await asyncio.wait_for(events.__anext__(), SECONDS) for _ in range(4)]
            assert [event.data for event in found] == [0, 1, 2, 99]


FORKS = """
import asyncio, os, signal, threading
from pyramid_asgi_consumers.channels import Channels, Event
from pyramid_asgi_consumers.channels.events import make_event
from pyramid_asgi_consumers.channels.memory import MemoryBackend

backend = MemoryBackend(history=3)
channels = Channels(backend)
backend.publish_many([("kept", b"j1")])
stop = threading.Event()

def work():
    number = 0
    while not stop.is_set():
        backend.publish_many([("x%d" % (number % 5000), b"j1")])
        assert make_event("a", (1, number), b"j1").data == 1
        number += 1

def child():
    signal.alarm(20)
    [event_id] = backend.publish_many([("kept", b"j2")])
    assert make_event("a", (1, 1), b"j1").data == 1
    assert asyncio.run(channels.present("kept")) == []
    assert [row[2].data for row in backend._channels["kept"].rows] == [1, 2]
    return 0

async def main():
    async with channels.subscribe("kept", presence="me"):
        for _ in range(10):
            pid = os.fork()
            if not pid:
                status = 1
                try:
                    asyncio.events._set_running_loop(None)
                    status = child()
                finally:
                    os._exit(status)
            _, status = os.waitpid(pid, 0)
            assert status == 0, status
        assert await channels.present("kept") == ["me"]

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
try:
    asyncio.run(main())
finally:
    stop.set()
"""


def test_a_child_publishes_although_threads_published_as_it_was_forked():
    command = [sys.executable, "-W", "ignore", "-c", FORKS]
    found = subprocess.run(command, capture_output=True, timeout=100)
    assert found.returncode == 0, found.stderr.decode()


# Python 3.12 warns of any fork of a process with threads.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
async def test_a_parent_goes_on_where_it_forked():
    channels = Channels(MemoryBackend())
    async with channels.subscribe("a") as events:
        child = os.fork() or os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        await asyncio.to_thread(channels.backend.publish_many, [("a", b"j1")])
        assert (await asyncio.wait_for(events.__anext__(), SECONDS)).data == 1


async def test_subscriptions_are_not_a_childs():
    channels = Channels(MemoryBackend())
    backend = channels.backend
    async with channels.subscribe("a", presence="me"):
        backend.before_fork()
        backend.after_fork(in_child=True)
        assert await channels.present("a") == []
        assert backend._inboxes == {}


async def test_who_forks_in_the_midst_of_a_publish_goes_on():
    channels = Channels(MemoryBackend(history=1))
    backend = channels.backend

    def fork():
        backend.before_fork()
        backend.after_fork(in_child=True)

    async with channels.subscribe("a") as events:
        await channels.publish(interrupted("a", None), 0)
        backend.publish_many([(interrupted("a", fork), b"j1")])
        found = [await asyncio.wait_for(events.__anext__(), SECONDS) for _ in range(2)]
        assert [event.data for event in found] == [0, 1]
