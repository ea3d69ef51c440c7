"""Limits of what one client sends and of how many connections one user has open."""

import asyncio
import re

import pytest
from pyramid.exceptions import ConfigurationError
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers.connection import limits
from pyramid_asgi_consumers.connection.limits import Rate, UserPlaces, read_rate
from pyramid_asgi_consumers.exceptions import WebSocketDisconnect
from pyramid_asgi_consumers.testing import TestApp
from tests.support.asgi import CONNECT, http_scope, run, websocket_scope

DISCONNECT = {"type": "websocket.disconnect", "code": 1000}


def text(message):
    return {"type": "websocket.receive", "text": message}


def binary(message):
    return {"type": "websocket.receive", "bytes": message, "text": None}


class Got(list):
    """What a consumer has received, which it appends here."""

    def __init__(self):
        self.end = asyncio.Event()

    async def consumer(self, scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            event = await receive()
            if event["type"] == "websocket.disconnect":
                self.append(event["code"])
                return
            self.append(event.get("text") or event["bytes"])

    async def func(self, websocket):
        await websocket.accept()
        async for message in websocket:
            self.append(message)
        self.append(websocket._end[0])


async def closed_with(app, *messages, **more):
    """The close codes that went to the client of ``/ws``."""
    sent = await run(app, websocket_scope(**more), CONNECT, *messages, DISCONNECT)
    return [event["code"] for event in sent if event["type"] == "websocket.close"]


def declare(config, kind, got, **arguments):
    if kind == "function":
        config.add_websocket("/ws", got.func, **arguments)
    elif kind == "guarded":
        config.add_websocket("/ws", got.func, name="ws", **arguments)
    else:
        config.add_asgi_consumer("/ws", "websocket", got.consumer, **arguments)


KINDS = pytest.mark.parametrize("kind", ["plain", "function", "guarded"])


@KINDS
@pytest.mark.parametrize(
    "message", [text("x" * 11), binary(b"x" * 11), text("é" * 6), text("€" * 4)]
)
async def test_a_message_that_is_too_long_closes_with_1009(config, caplog, kind, message):
    got = Got()
    declare(config, kind, got, max_message=10)
    app = config.make_asgi_app()
    codes = await closed_with(app, text("ok"), message, text("no"), client=("192.0.2.7", 1))
    assert codes == [1009]
    assert got == ["ok", 1009]
    (line,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert re.fullmatch(
        r"websocket consumer /ws \(.*\) closes with 1009: a message of more than 10 bytes"
        r" \(max_message\) came from 192\.0\.2\.7",
        line.getMessage(),
    )


@KINDS
@pytest.mark.parametrize("message", [text("x" * 10), binary(b"x" * 10), text("é" * 5), text("xx")])
async def test_a_message_that_is_as_long_as_it_may_be_arrives(config, kind, message):
    got = Got()
    declare(config, kind, got, max_message=10)
    await closed_with(config.make_asgi_app(), message)
    assert got == [message.get("text") or message.get("bytes"), 1000]


@KINDS
async def test_more_messages_than_max_rate_close_with_1008(config, caplog, kind):
    got = Got()
    declare(config, kind, got, max_rate="3/10s")
    messages = [text(str(number)) for number in range(9)]
    assert await closed_with(config.make_asgi_app(), *messages) == [1008]
    assert got == ["0", "1", "2", 1008]
    (line,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert line.getMessage().endswith("more than 3 messages in 10 s (max_rate) came from a client")


async def test_who_stays_within_max_rate_is_never_closed(config, monkeypatch):
    got = Got()
    declare(config, "plain", got, max_rate="3/10s")
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(limits, "monotonic", lambda: next(clock))
    messages = [text("x")] * 60
    assert await closed_with(config.make_asgi_app(), *messages) == [1000]
    assert got == [*"x" * 60, 1000]


@pytest.mark.parametrize("kind", ["plain", "mounted"])
async def test_settings_are_for_consumers_that_state_none(config, kind):
    config.add_settings({"asgi.max_message": "3", "asgi.max_rate": " 2/h "})
    got = Got()
    if kind == "plain":
        config.add_asgi_consumer("/ws", "websocket", got.consumer)
    else:
        config.add_asgi_app("/ws", got.consumer)
    own = Got()
    config.add_asgi_consumer("/own", "websocket", own.consumer, max_message=5, max_rate="3/s")
    app = config.make_asgi_app()
    assert await closed_with(app, text("four")) == [1009]
    assert await closed_with(app, *[text("x")] * 3) == [1008]
    assert await closed_with(app, *[text("fiver")] * 3, path="/own") == [1000]
    assert await closed_with(app, *[text("x")] * 4, path="/own") == [1008]


@KINDS
def test_a_test_sees_the_close_of_a_limit(config, kind):
    got = Got()
    declare(config, kind, got, max_message=10)
    with TestApp(config.make_asgi_app()).websocket("/ws") as websocket:
        websocket.send("x" * 11)
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive()
    assert closed.value.code == 1009


async def test_what_a_function_did_not_ask_for_counts_too(config):
    heard = []

    async def busy(websocket):
        await websocket.accept()
        try:
            await asyncio.Event().wait()
        finally:
            heard.append(websocket._end)

    config.add_websocket("/ws", busy, max_rate="5/m")
    app = config.make_asgi_app()
    assert await closed_with(app, *[text("x")] * 9) == [1008]
    assert heard == [(1008, "")]


@pytest.mark.parametrize("how", ["sends", "waits", "receives", "closes"])
async def test_a_consumer_that_goes_on_is_cancelled_as_after_a_leave(config, caplog, how):
    config.add_settings({"asgi.leave_timeout": "0.05"})
    ends = []

    async def stubborn(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        ends.append((await receive())["type"])
        try:
            if how == "closes":
                await send({"type": "websocket.close"})
            while how == "sends":
                with pytest.raises(OSError):
                    await send({"type": "websocket.send", "text": "x"})
            await (receive() if how == "receives" else asyncio.Event().wait())
        except BaseException as error:
            ends.append(type(error).__name__)
            raise

    config.add_asgi_consumer("/ws", "websocket", stubborn, max_message=1)
    assert await closed_with(config.make_asgi_app(), text("xx"), text("xx"), text("x")) == [1009]
    assert ends[0] == "websocket.disconnect"
    if how == "closes":
        assert ends[-1] == "ClientGone"
    else:
        assert ends[-1] == "CancelledError"
        assert "goes on 0.05 s after its client has left: cancelled" in caplog.text


async def test_two_tasks_that_receive_are_both_told(config):
    ends, waiting = [], asyncio.Queue()

    async def consumer(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        pair = [asyncio.create_task(receive()), asyncio.create_task(receive())]
        await asyncio.sleep(0)
        waiting.put_nowait(text("xx"))
        waiting.put_nowait(text("x"))
        ends.extend([(await each)["code"] for each in pair])

    sent = []

    async def send(event):
        sent.append(event)

    waiting.put_nowait(CONNECT)
    config.add_asgi_consumer("/ws", "websocket", consumer, max_message=1)
    await config.make_asgi_app()(websocket_scope(), waiting.get, send)
    assert ends == [1009, 1009]
    assert sent[1:] == [{"type": "websocket.close", "code": 1009, "reason": ""}]


async def test_what_comes_after_the_consumers_own_close_closes_nothing_more(config):
    ended = []

    async def closing(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4000})
        ended.append((await receive())["code"])

    config.add_asgi_consumer("/ws", "websocket", closing, max_message=1)
    assert await closed_with(config.make_asgi_app(), text("xx")) == [4000]
    assert ended == [1009]


async def test_a_server_that_cannot_close_any_more_is_no_error(config, caplog):
    got = Got()
    config.add_asgi_consumer("/ws", "websocket", got.consumer, max_message=1)
    app = config.make_asgi_app()
    events = iter([CONNECT, text("xx")])

    async def receive():
        return next(events)

    async def send(event):
        if event["type"] == "websocket.close":
            raise RuntimeError("It was closed already")

    await app(websocket_scope(), receive, send)
    assert got == [1009]
    assert "ERROR" not in caplog.text


@KINDS
async def test_a_client_that_takes_no_close_does_not_keep_its_place(config, kind):
    config.add_settings({"asgi.leave_timeout": "0.05"})
    declare(config, kind, Got(), max_message=1, max_connections=1)
    app = config.make_asgi_app()
    events = [CONNECT, text("too long")]
    cancelled = []

    async def receive():
        return events.pop(0) if events else await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "websocket.close":
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)

    await asyncio.wait_for(app(websocket_scope(), receive, send), 20)
    # It is cancelled, and not waited for.
    await asyncio.sleep(0)
    assert cancelled == [True]
    assert await closed_with(app, text("too long")) == [1009]


async def test_many_clients_beyond_a_limit_are_not_as_many_warnings(config, caplog):
    got = Got()
    config.add_asgi_consumer("/ws", "websocket", got.consumer, max_message=1)
    app = config.make_asgi_app()
    for _ in range(30):
        assert await closed_with(app, text("xx")) == [1009]
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == limits.MOST_WARNINGS + 1
    assert warnings[-1].endswith("more lines like the last are debug ones, for 60 s")


# Connections of one user.


class Policy:
    def authenticated_userid(self, request):
        return request.headers.get("user")

    def permits(self, request, context, permission):
        return True


def user(name):
    return [(b"user", name.encode()), (b"sec-websocket-key", b"x")] if name else []


@pytest.mark.parametrize("by", ["argument", "setting"])
@pytest.mark.parametrize("kind", ["websocket", "http"])
async def test_a_user_beyond_max_connections_per_user_gets_503(config, caplog, kind, by):
    opened, end = [], asyncio.Event()

    async def websocket(scope, receive, send):
        opened.append(scope["pyramid.userid"])
        await receive()
        await send({"type": "websocket.accept"})
        await end.wait()

    async def http(scope, receive, send):
        opened.append(scope["pyramid.userid"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await end.wait()
        await send({"type": "http.response.body", "body": b""})

    config.set_security_policy(Policy())
    arguments = {"permission": "open"}
    if by == "argument":
        arguments["max_connections_per_user"] = 2
    else:
        config.add_settings({"asgi.max_connections_per_user": "2"})
    func = websocket if kind == "websocket" else http
    config.add_asgi_consumer("/ws", kind, func, **arguments)
    app = config.make_asgi_app()
    make = websocket_scope if kind == "websocket" else http_scope
    first = (CONNECT,) if kind == "websocket" else ()
    tasks = []
    for name in ("ann", "ann", "ben", None, None, None):
        tasks.append(asyncio.create_task(run(app, make("/ws", headers=user(name)), *first)))
        while len(opened) < len(tasks):
            await asyncio.sleep(0.001)
    refused = await run(app, make("/ws", headers=user("ann")), *first)
    assert refused[0]["status"] == 503
    assert "max_connections_per_user are open for a client, user 'ann'" in caplog.text
    end.set()
    await asyncio.gather(*tasks)
    again = await run(app, make("/ws", headers=user("ann")), *first)
    assert again[0].get("status") in (None, 200)


async def test_places_are_given_back_however_a_block_ends():
    places = UserPlaces(1)
    for error in (ValueError, asyncio.CancelledError):
        with pytest.raises(error), places.taken(7) as has_place:
            assert has_place
            with places.taken(7) as another:
                assert not another
            raise error
    assert places.open == {}


async def test_users_that_cannot_be_keys_have_places_too():
    places = UserPlaces(1)
    with places.taken(["a", 1]) as has_place, places.taken(["a"]) as another_has:
        assert has_place and another_has
        with places.taken(["a", 1]) as has_two, places.taken("['a', 1]") as text_has:
            assert not has_two
            assert text_has
    assert places.open == {}


async def test_a_plain_consumer_has_no_users_to_count(config):
    config.add_asgi_consumer("/ws", "websocket", Got().consumer, max_connections_per_user=1)
    with pytest.raises(
        ConfigurationError, match="max_connections_per_user=1 is for a guarded consumer"
    ):
        config.make_asgi_app()


# Declarations.


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/10s", (100, 10)),
        ("1/s", (1, 1)),
        ("30/m", (30, 60)),
        ("5/2h", (5, 7200)),
        (" 5/2s\n", (5, 2)),
        (Rate(5, 2), None),
    ],
)
def test_a_rate_is_messages_in_seconds_minutes_or_hours(text, rate):
    if rate is None:
        with pytest.raises(ValueError):
            read_rate(text)
    else:
        assert read_rate(text) == rate


WRONG_RATES = [
    *("100", "100/0s", "x/10s", "100/10", "0/10s", "-1/s", "1.5/s", "1/1.5s", "", "1/d"),
    *("²/s", "1/9999999h", "9999999999/s", True, 1.5, 100, 0, b"1/s"),
]


@pytest.mark.parametrize("value", WRONG_RATES)
def test_a_rate_that_is_none_is_named(config, value):
    words = re.escape('add_asgi_consumer: max_rate must be "MESSAGES/TIME", as "100/10s"')
    with pytest.raises(ConfigurationError, match=f"(?s){words}.* not {re.escape(repr(value))}$"):
        config.add_asgi_consumer("/ws", "websocket", Got().consumer, max_rate=value)
    config.add_settings({"asgi.max_rate": value})
    with pytest.raises(ConfigurationError, match="asgi.max_rate must be"):
        config.make_asgi_app()


@pytest.mark.parametrize("argument", ["max_message", "max_connections_per_user"])
@pytest.mark.parametrize("value", [True, False, 0, -1, "100", 1.5, "x"])
def test_a_number_that_is_none_is_named(config, argument, value):
    words = re.escape(f"add_websocket: {argument} must be a positive int or None, not {value!r}")
    with pytest.raises(ConfigurationError, match=words):
        config.add_websocket("/ws", Got().func, **{argument: value})


@pytest.mark.parametrize("argument", ["max_message", "max_connections_per_user"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x", ""])
def test_a_setting_that_is_no_number_is_named(config, argument, value):
    config.add_settings({f"asgi.{argument}": value})
    words = re.escape(f"asgi.{argument} must be a whole number of at least 1, not {value!r}")
    with pytest.raises(ConfigurationError, match=words):
        config.make_asgi_app()


@pytest.mark.parametrize("argument", [{"max_message": 5}, {"max_rate": "5/s"}])
def test_limits_of_messages_are_for_websockets_only(config, argument):
    (name,) = argument
    with pytest.raises(ConfigurationError, match=f"add_event_stream: {name}=.* is for websockets"):
        config.add_event_stream("/events", Got().func, **argument)


def test_limits_are_introspectable(config):
    given = {"max_message": 5, "max_rate": "5/s", "max_connections_per_user": 2}
    config.add_websocket("/ws", Got().func, permission=NO_PERMISSION_REQUIRED, **given)
    config.commit()
    entry = config.introspector.get("asgi consumers", ("asgi consumer", "websocket", "/ws"))
    assert {name: entry[name] for name in given} == given
