"""How a function that ``add_websocket`` declared ends."""

import asyncio
import threading

import pytest
from pyramid.httpexceptions import HTTPConflict
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import WebSocketDisconnect
from pyramid_asgi_consumers.exceptions import InvalidMessage
from pyramid_asgi_consumers.websocket import watcher
from tests.support.asgi import run, websocket_scope
from tests.support.events import text
from tests.support.websockets import Gone, application, left, serve


async def test_a_function_that_returns_closes_its_websocket(caplog):
    async def func(websocket):
        await websocket.accept()

    sent = await serve(func)
    assert sent[1:] == [{"type": "websocket.close", "code": 1000, "reason": ""}]
    assert caplog.messages == []


async def returns_at_once(websocket):
    return None


async def test_a_function_that_returns_without_accept_is_a_denial_and_a_warning(caplog):
    sent = await serve(returns_at_once)
    assert sent[0]["status"] == 403
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "function tests.websocket.test_function.returns_at_once returned without accept():"
        " the client gets 403"
    )


async def test_a_function_that_denies_is_no_warning(caplog):
    async def func(websocket):
        await websocket.deny(HTTPConflict())

    sent = await serve(func)
    assert [event.get("status") for event in sent] == [409, None]
    assert caplog.messages == []


async def test_a_function_that_raises_is_logged_with_its_name(caplog):
    async def func(websocket):
        await websocket.accept()
        raise KeyError

    assert (await serve(func))[-1]["code"] == 1011
    assert caplog.messages == [
        "websocket consumer /ws (function tests.websocket.test_function.func) failed"
    ]


@pytest.mark.parametrize("since", ["[1]", "7", '{"news": 7}', '{"news": null}', "true"])
async def test_a_place_that_is_none_closes_with_its_code(since, caplog):
    async def func(websocket):
        await websocket.accept()
        async with websocket.relay("news", since=await websocket.receive_json()):
            raise AssertionError

    sent = await serve(func, text(since))
    assert sent[1:] == [{"type": "websocket.close", "code": 1008, "reason": ""}]
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert "subscribe: since must be the id of an event" in record.getMessage()


@pytest.mark.parametrize(
    ("method", "event", "code"),
    [
        ("receive_json", text("{"), 1007),
        ("receive_text", {"type": "websocket.receive", "bytes": b""}, 1003),
    ],
)
async def test_a_message_that_nobody_expects_closes_with_its_code(method, event, code, caplog):
    async def func(websocket):
        await websocket.accept()
        await getattr(websocket, method)()

    sent = await serve(func, event)
    assert sent[1:] == [{"type": "websocket.close", "code": code, "reason": ""}]
    (record,) = caplog.records
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert f"closes with {code}: The client sent" in record.getMessage()


async def test_an_invalid_message_before_accept_is_a_denial_400():
    async def func(websocket):
        raise InvalidMessage("of another kind")

    assert (await serve(func))[0]["status"] == 400


@pytest.mark.parametrize("receives", [True, False])
async def test_a_client_that_leaves_ends_a_function_quietly(receives, caplog, soon):
    cleaned = []

    async def func(websocket):
        try:
            await websocket.accept()
            if receives:
                await websocket.receive()
            await asyncio.Event().wait()
        finally:
            with pytest.raises(WebSocketDisconnect) as caught:
                await websocket.send("goodbye")
            await websocket.close()
            cleaned.append(caught.value.code)

    sent = await serve(func, left())
    assert [event["type"] for event in sent] == ["websocket.accept"]
    assert (cleaned, caplog.messages) == ([1001], [])


async def test_a_client_that_leaves_before_the_function_begins(caplog):
    # Before accept there is nothing to warn of. Nobody gets the denial.
    sent = await run(application(returns_at_once), websocket_scope(), left())
    assert [message.get("status") for message in sent] == [503, None]
    assert caplog.messages == []


async def test_a_client_that_leaves_during_the_iteration_is_no_close():
    async def func(websocket):
        await websocket.accept()
        async for message in websocket:
            await websocket.send(message)

    sent = await serve(func, text("a"), left())
    assert [event["type"] for event in sent] == ["websocket.accept", "websocket.send"]


async def test_a_function_that_has_closed_may_take_its_time(soon):
    done = []

    async def func(websocket):
        await websocket.accept()
        await websocket.close()
        await asyncio.sleep(0.05)
        done.append(True)

    await serve(func, left())
    assert done == [True]


async def gone(event):
    raise Gone


async def hears_by_iteration(websocket):
    await websocket.accept()
    assert [message async for message in websocket] == []


async def hears_by_receive(websocket):
    await websocket.accept()
    with pytest.raises(WebSocketDisconnect):
        await websocket.receive()


async def hears_by_wait_closed(websocket):
    await websocket.accept()
    await websocket.wait_closed()


async def hears_by_accept(websocket):
    websocket._send = gone
    with pytest.raises(WebSocketDisconnect):
        await websocket.accept()


async def hears_by_send(websocket):
    await websocket.accept()
    websocket._send = gone
    with pytest.raises(WebSocketDisconnect):
        await websocket.send("hello")


@pytest.mark.parametrize(
    "hears",
    [hears_by_iteration, hears_by_receive, hears_by_wait_closed, hears_by_accept, hears_by_send],
)
async def test_a_function_that_goes_on_is_cancelled(hears, caplog):
    ended = []

    async def func(websocket):
        await hears(websocket)
        # A task that does something for the client need not hear of it.
        beside = asyncio.ensure_future(asyncio.Event().wait())
        try:
            await beside
        finally:
            ended.append(beside.cancelled())

    await serve(func, left(), settings={"asgi.leave_timeout": "0.01"})
    assert ended == [True]
    name = "function tests.websocket.test_function.func"
    assert caplog.messages == [f"{name} goes on 0.01 s after its client has left: cancelled"]


async def test_a_function_that_has_denied_may_take_its_time(caplog):
    done = []

    async def func(websocket):
        await websocket.deny(HTTPConflict())
        await asyncio.sleep(0.05)
        done.append(True)

    await serve(func, left(), settings={"asgi.leave_timeout": "0.01"})
    assert (done, caplog.messages) == ([True], [])


async def test_a_function_that_relays_and_does_not_receive_ends_with_its_client(soon):
    ended = []

    async def func(websocket):
        await websocket.accept()
        async with websocket.relay("room"):
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

    await serve(func, text("unread"), left())
    assert ended == [True]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_work_in_a_request_is_finished_when_the_client_leaves(monkeypatch):
    # The thread has begun by then.
    monkeypatch.setattr(watcher, "INTERVAL", 0.3)
    go_on, finished = threading.Event(), threading.Event()
    ended = []

    def work(request):
        assert go_on.wait(20)
        finished.set()

    async def func(websocket):
        await websocket.accept()
        try:
            await websocket.run_in_request(work)
        finally:
            ended.append(True)

    await serve(func, left(), permission=NO_PERMISSION_REQUIRED)
    assert (ended, finished.is_set()) == ([True], False)
    go_on.set()
    assert await asyncio.to_thread(finished.wait, 20)
