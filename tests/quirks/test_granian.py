"""What Granian does by itself, where it ends the server, and what is done differently for it."""

import asyncio
import os
import signal
import sys
from types import SimpleNamespace

import pytest
import uvloop

from pyramid_asgi_consumers import quirks
from pyramid_asgi_consumers.quirks import granian
from pyramid_asgi_consumers.quirks.granian import Granian
from tests.support import clients
from tests.support.clients import DEADLINE
from tests.support.servers import OLD_GRANIAN, running, wait_until

GRANIAN = {
    "type": "websocket",
    "extensions": {"websocket.http.response": {}, "http.response.pathsend": {}},
    "asgi": {"version": "3.0", "spec_version": "2.3"},
}


def test_an_old_granian_by_itself_dies_of_a_denial_that_repeats_a_header(tmp_path):
    with running("granian", tmp_path) as server:
        status = clients.handshake_status(server, "/bare/403?vary=a&vary=b")
        assert status == (None if OLD_GRANIAN else 403)
        end = "Unexpected exit from worker-1"
        wait_until(lambda: (end in server.logged()) is OLD_GRANIAN, "its end", server)


async def test_granian_gets_no_close_after_a_disconnect():
    """What it does with one, one time in ten when it stops under load: a worker's panic."""
    came = iter(["websocket.receive", "websocket.disconnect"])
    sent = []

    async def receive():
        return {"type": next(came)}

    async def send(message):
        sent.append(message["type"])

    own_receive, own_send = quirks.served_by(GRANIAN, send).websocket(receive, send)
    close = {"type": "websocket.close"}
    for number, kind in enumerate(["websocket.receive", "websocket.disconnect"]):
        assert await own_receive() == {"type": kind}
        await own_send(close)
        await own_send({"type": "websocket.send"})
        assert sent == ["websocket.close", *["websocket.send"] * (number + 1)]


@pytest.mark.parametrize("version", ["2.8.7", "2.8", None])
def test_repeated_headers_are_merged_for_an_old_granian_alone(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "granian", version and SimpleNamespace(__version__=version))
    headers = [(b"Vary", b"a"), (b"vary", b"b"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    merged = [(b"vary", b"a, b"), (b"set-cookie", b"a=1")]
    assert quirks.served_by(GRANIAN, None).denial_headers(headers) == merged
    other = {**GRANIAN, "extensions": {"websocket.http.response": {}}}
    assert quirks.served_by(other, None).denial_headers(headers) == headers


@pytest.mark.parametrize("version", ["2.8.9", "2.10.0", "3.0.0rc1"])
def test_repeated_headers_are_left_to_a_later_granian(version, monkeypatch):
    monkeypatch.setitem(sys.modules, "granian", SimpleNamespace(__version__=version))
    headers = [(b"vary", b"a"), (b"vary", b"b")]
    assert quirks.served_by(GRANIAN, None).denial_headers(headers) == headers


def own_receive():
    """Return what a websocket on Granian is received by, and the futures that Granian was asked."""
    loop = asyncio.get_running_loop()
    asked = []

    def receive():
        asked.append(loop.create_future())
        return asked[-1]

    return Granian().websocket(receive, None)[0], asked


async def test_two_tasks_that_receive_on_granian_have_a_message_each():
    own, asked = own_receive()
    tasks = [asyncio.ensure_future(own()) for _ in range(2)]
    for number in range(2):
        while len(asked) == number:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        asked[number].set_result({"type": "websocket.receive", "text": str(number)})
    assert sorted(message["text"] for message in await asyncio.gather(*tasks)) == ["0", "1"]


async def test_a_message_that_comes_after_a_receive_on_granian_was_cancelled_is_kept():
    own, asked = own_receive()
    waiting = asyncio.ensure_future(own())
    while not asked:
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    asked[0].set_result({"type": "websocket.receive", "text": "kept"})
    # Granian calls its callback before anybody asks again.
    await asyncio.sleep(0)
    assert await own() == {"type": "websocket.receive", "text": "kept"}
    assert len(asked) == 1


async def test_a_call_for_the_message_before_is_not_taken_for_that_of_the_next():
    loop = asyncio.get_running_loop()
    asked = []

    def receive():
        asked.append(loop.create_future())
        return asked[-1]

    own, _ = Granian().websocket(receive, None)
    first = asyncio.ensure_future(own())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    # It is done, and those who wait are called in the loop's next turn.
    asked[0].set_result({"type": "websocket.receive", "text": "0"})
    assert (await own())["text"] == "0"
    loop.call_later(0.01, lambda: asked[1].set_result({"type": "websocket.receive", "text": "1"}))
    assert (await own())["text"] == "1"


@pytest.fixture
def restored():
    """The handler of a signal of which the test may change it."""
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_is_noted_and_handled_as_before(restored):
    came = []
    signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    assert not granian._Noting.before(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    assert granian._Noting.before(signal.SIGUSR1)
    assert came == [signal.SIGUSR1]


def test_a_handler_that_came_later_is_handled_as_well(restored):
    came = []
    signal.signal(signal.SIGUSR1, signal.default_int_handler)
    assert not granian._Noting.before(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    assert not granian._Noting.before(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    assert granian._Noting.before(signal.SIGUSR1)
    assert came == [signal.SIGUSR1]


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_what_python_does_not_handle_is_left_alone(handler, restored):
    signal.signal(signal.SIGUSR1, handler)
    assert not granian._Noting.before(signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == handler


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_event_loop_handles_its_signals_as_before(new_loop, restored):
    async def main():
        came = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, came.set)
        assert not granian._Noting.before(signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(came.wait(), DEADLINE)
        assert granian._Noting.before(signal.SIGUSR1)
        loop.remove_signal_handler(signal.SIGUSR1)

    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
