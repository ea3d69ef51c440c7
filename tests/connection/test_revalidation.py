"""Connections whose handshakes are repeated: who is asked and when, and who stays."""

import asyncio
import contextlib
import contextvars
import logging
import re
import threading

import pytest
from pyramid.exceptions import ConfigurationError
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED

from pyramid_asgi_consumers import (
    asgi_consumer_config,
    event_stream_config,
    websocket_config,
)
from pyramid_asgi_consumers.channels.disconnects import Word
from pyramid_asgi_consumers.connection import revalidation
from pyramid_asgi_consumers.connection.revalidation import Failures, Stay, Watch
from pyramid_asgi_consumers.interfaces import IConsumerMapper
from pyramid_asgi_consumers.lifespan import running
from pyramid_asgi_consumers.mapper import Consumer
from tests.support.asgi import http_scope, run
from tests.support.staying import Client, Site, answers_on, close, echoes, lingers
from tests.support.threads import Held
from tests.support.wsgi import wait_until

KINDS = pytest.mark.parametrize("kind", ["websocket", "stream", "http"])

#: So long that a test is over before.
NEVER = 1000

pytestmark = pytest.mark.usefixtures("nothing_is_left_behind")


@pytest.fixture
async def held():
    held = Held()
    yield held
    held.go_on()


def has_ended(client, last, code, reason="no longer permitted"):
    """Whether ``last`` is how such a client is put out."""
    if client.kind == "websocket":
        return last == close(code, reason)
    if client.kind == "stream":
        return last == {"type": "http.response.body", "body": b"", "more_body": False}
    # It was cancelled in the midst of its response, which the server breaks off.
    return last["body"] == b"begun" and last["more_body"]


# Who stays.


@KINDS
async def test_who_may_stay_stays_and_is_asked_again_and_again(kind):
    site = Site()
    async with site.opened(kind) as client:
        before = list(client.sent)
        await site.asked(3)
        assert client.sent == before and not client.task.done()


@KINDS
@pytest.mark.parametrize("by", ["argument", "setting"])
async def test_who_may_stay_no_longer_is_put_out(kind, by):
    if by == "argument":
        site = Site(0.01)
    else:
        site = Site(None, {"asgi.revalidate": "0.01"})
    async with site.opened(kind) as client:
        await site.asked()
        site.policy.permitted = False
        assert has_ended(client, await client.ended(), 4403)


async def test_an_argument_wins_over_the_setting():
    site = Site(NEVER, {"asgi.revalidate": "0.01"})
    other = Site(0.01, {"asgi.revalidate": str(NEVER)})
    async with site.opened(), other.opened():
        await other.asked(3)
        assert len(site.requests) == 1


async def test_without_an_interval_nobody_is_asked_again():
    site, other = Site(None), Site()
    async with site.opened(), other.opened():
        await other.asked(3)
        assert len(site.requests) == 1


async def test_a_setting_is_not_for_plain_consumers():
    site = Site(None, {"asgi.revalidate": "0.01"}, add_plain)
    async with site.opened(path="/plain"), site.opened():
        await site.asked(3)
        assert {request.path for request in site.requests} == {"/websocket"}


def add_plain(config):
    config.add_websocket("/plain", echoes)


@KINDS
@pytest.mark.parametrize("userid", ["ben", 7])
async def test_another_user_is_put_out_with_4401(kind, userid):
    site = Site()
    async with site.opened(kind) as client:
        await site.asked()
        site.policy.userid = userid
        assert has_ended(client, await client.ended(), 4401, "another user")


@KINDS
async def test_who_is_nobody_any_more_may_come_again(kind):
    # With a newer session, say, that only the browser has.
    site = Site()
    async with site.opened(kind) as client:
        await site.asked()
        site.policy.userid = None
        assert has_ended(client, await client.ended(), 4403, "not logged in")


async def test_who_was_nobody_and_logs_in_is_another_user():
    site = Site(permission=NO_PERMISSION_REQUIRED)
    site.policy.userid = None
    async with site.opened() as client:
        site.policy.userid = "ann"
        assert await client.ended() == close(4401, "another user")


@pytest.mark.parametrize("userid", [("tenant", 7), 1.0, ["a"], frozenset("ab")])
async def test_a_userid_may_be_anything_that_compares_equal(userid):
    site = Site()
    site.policy.userid = userid
    async with site.opened() as client:
        site.policy.userid = type(userid)(userid)
        await site.asked(3)
        assert not client.task.done()


# When they are asked.


async def test_who_comes_together_is_asked_anywhere_within_the_interval(monkeypatch):
    site = Site(100_000)
    delays = noted_delays(monkeypatch)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(200):
            await stack.enter_async_context(site.opened())
    # Shorter ones are of the test's own waiting.
    own = [delay for delay in delays if delay > 100]
    assert 150 < len(own) == len(set(own))
    for tenth in range(0, 100_000, 10_000):
        assert any(tenth < delay <= tenth + 10_000 for delay in own)
    assert max(own) <= 100_000


async def test_intervals_differ_by_a_tenth(monkeypatch):
    site = Site(0.05)
    delays = noted_delays(monkeypatch)
    async with site.opened():
        await site.asked(40)
    # The first is anywhere, and the requests of the test are not timed by these.
    own = [delay for delay in delays if 0.045 <= delay <= 0.055]
    assert len(set(own)) >= 39
    assert min(own) < 0.0475 and 0.0525 < max(own)


def noted_delays(monkeypatch):
    loop, delays = asyncio.get_running_loop(), []
    call_later = loop.call_later

    def noted(delay, *args, **kwargs):
        delays.append(delay)
        return call_later(delay, *args, **kwargs)

    monkeypatch.setattr(loop, "call_later", noted)
    return delays


async def test_a_request_is_never_begun_while_another_is_under_way(held):
    site = Site()
    site.policy.hold = held.wait
    held.go_on()
    running, most = [], []

    def hold():
        running.append(1)
        most.append(len(running))
        held.wait()
        running.pop()

    site.policy.hold = hold
    async with site.opened():
        watch = site.watch()
        for _ in range(20):
            watch.check_all(0)
            await site.asked(1)
    assert max(most) == 1


async def test_who_leaves_meanwhile_is_not_put_out(held, caplog):
    caplog.set_level(logging.INFO)
    site = Site()
    async with site.opened() as client:
        site.policy.permitted, site.policy.hold = False, held.wait
        await held.reached()
    sent = list(client.sent)
    held.go_on()
    await site.app.handshakes.drain(20)
    await asyncio.sleep(0)
    assert client.sent == sent
    assert "no longer permitted" not in caplog.text


async def test_who_leaves_while_the_request_waits_for_a_thread_has_none_made(held):
    site = Site(settings={"asgi.handshake_threads": "1"})
    async with site.opened(), site.opened():
        await site.asked(2)
        site.policy.hold = held.wait
        await held.reached()
        # The other one's waits for the thread.
        await wait_until(lambda: site.app.handshakes.repetitions._queue.jobs)
        count = len(site.requests)
    assert_nothing_is_left(site)
    site.policy.hold = None
    held.go_on()
    await site.app.handshakes.drain(20)
    assert len(site.requests) == count


def assert_nothing_is_left(site):
    """No timer, no job that waits, and nobody who is remembered."""
    loop = asyncio.get_running_loop()
    owners = [getattr(timer._callback, "__self__", None) for timer in loop._scheduled]
    waiting = [
        timer
        for timer, owner in zip(loop._scheduled, owners, strict=True)
        if isinstance(owner, Stay | Watch) and not timer.cancelled()
    ]
    assert waiting == []
    assert not (site.watch()._stays or site.watch()._unchecked)
    queue = site.app.handshakes.repetitions._queue
    assert queue is None or not queue.jobs


def put_out(site):
    site.app.connections.of(asyncio.get_running_loop()).put_out(Word("ann", "bye"))


def add_lingering(config):
    config.add_websocket("/lingers", lingers, permission="stay", revalidate=0.01)


async def test_who_was_put_out_and_goes_on_is_asked_no_more():
    site = Site(configure=add_lingering)
    async with site.opened(path="/lingers") as client:
        await site.asked()
        put_out(site)
        await site.app.handshakes.drain(20)
        count = len(site.requests)
        assert await client.ended() == close(4401, "bye")
        assert len(site.requests) == count


async def test_who_was_put_out_while_it_was_asked_is_put_out_once(held):
    site = Site(configure=add_lingering)
    async with site.opened(path="/lingers") as client:
        site.policy.permitted, site.policy.hold = False, held.wait
        await held.reached()
        put_out(site)
        held.go_on()
        count = len(site.requests)
        assert await client.ended() == close(4401, "bye")
        assert len(site.requests) == count
        assert len(client.sent) == 2


async def test_what_fails_for_who_was_put_out_is_not_worth_a_line(held, caplog):
    site = Site(configure=add_lingering)
    async with site.opened(path="/lingers") as client:
        site.policy.error, site.policy.hold = OSError("the database is down"), held.wait
        await held.reached()
        put_out(site)
        held.go_on()
        assert await client.ended() == close(4401, "bye")
    assert "could not be repeated" not in caplog.text


async def test_what_never_returns_holds_a_quarter_of_the_threads(held):
    site = Site(settings={"asgi.handshake_threads": "8"}, configure=add_page)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(site.opened())
        threads = []

        def hold():
            if "asgi.revalidation" in site.requests[-1].environ:
                threads.append(threading.get_ident())
                held.wait()

        site.policy.hold = hold
        await wait_until(lambda: len(threads) == 2)
        await asyncio.sleep(0.1)
        assert len(threads) == 2
        assert (await run(site.app, http_scope("/page")))[0]["status"] == 200
        async with site.opened("stream"):
            pass
        held.go_on()
        await wait_until(lambda: len(threads) > 10)


def add_page(config):
    config.add_route("page", "/page")
    config.add_view(lambda request: Response("a page"), route_name="page")


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (3, 1), (4, 1), (8, 2), (15, 3)])
def test_a_quarter_of_the_threads_is_one_at_least(threads, most):
    site = Site(settings={"asgi.handshake_threads": str(threads)})
    assert site.app.handshakes.repetitions.most == most


async def test_where_there_is_no_thread_the_connection_stays(caplog):
    site = Site()
    async with site.opened() as client:
        before = threading.stack_size(2**46)
        try:
            # Those that are there already.
            await site.app.handshakes.drain(20)
            await wait_until(lambda: "could not be repeated" in caplog.text)
        finally:
            threading.stack_size(before)
        await site.asked()
        assert not client.task.done()


# A server that stops.


async def test_when_the_server_stops_nobody_is_asked_any_more(held):
    site = Site(NEVER, {"asgi.shutdown_timeout": "0"})
    async with running(site.app):
        async with site.opened(), site.opened(), site.opened():
            site.policy.hold = held.wait
            site.watch().check_all(NEVER)
            await held.reached()
            crew = site.app.handshakes.pool.crew()
            await site.app.lifespan.drain()
            count = len(site.requests)
            held.go_on()
            await wait_until(lambda: not crew.threads)
            await asyncio.sleep(0)
            assert len(site.requests) == count
            assert_nothing_is_left(site)


def test_a_loop_that_ends_without_a_word_leaves_nothing_behind(caplog, recwarn):
    site = Site()
    reached, free = threading.Event(), threading.Event()

    def hold():
        if len(site.requests) > 1:
            reached.set()
            free.wait(20)

    site.policy.hold = hold

    async def main():
        client = Client(site.app, "websocket")
        await client.wait_until_open()
        await asyncio.to_thread(reached.wait, 20)

    asyncio.run(main())
    free.set()
    asyncio.run(site.app.handshakes.drain(20))
    assert caplog.records == [] and list(recwarn) == []


# All at once.


async def test_all_are_checked_once_over_some_time():
    site = Site(None)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(site.opened())
        for kind in ("stream", "http"):
            await stack.enter_async_context(site.opened(kind))
        loop = asyncio.get_running_loop()
        began, times = loop.time(), []
        site.policy.hold = lambda: times.append(loop.time() - began)
        site.watch().check_all(0.4)
        await wait_until(lambda: len(times) == 12)
        await asyncio.sleep(0.05)
        assert len(times) == 12
        # None comes before its part of the time has passed.
        assert all(time > number * 0.4 / 12 - 0.02 for number, time in enumerate(sorted(times)))


async def test_a_second_check_of_all_does_not_double_the_first():
    site = Site(NEVER)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(site.opened())
        del site.requests[:]
        site.watch().check_all(0.2)
        site.watch().check_all(0.1)
        await site.asked(10)
        await asyncio.sleep(0.05)
        assert len(site.requests) == 10


async def test_those_who_wait_are_first_where_all_are_to_be_checked_again():
    site = Site(NEVER)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(4):
            headers = [(b"number", str(number).encode())]
            await stack.enter_async_context(site.opened(headers=headers))
        del site.requests[:]
        site.watch().check_all(4)
        await site.asked(1)
        site.watch().check_all(0)
        await site.asked(4)
    numbers = [request.headers["number"] for request in site.requests]
    assert numbers == ["0", "1", "2", "3", "0"]


async def test_what_had_begun_before_does_not_count(held):
    site = Site(NEVER)
    async with site.opened() as client:
        site.policy.hold = held.wait
        site.watch().check_all(0)
        await held.reached()
        # This one has found that its user may stay.
        site.policy.permitted = False
        site.watch().check_all(0)
        await asyncio.sleep(0.05)
        assert len(site.requests) == 2
        held.go_on()
        assert await client.ended() == close(4403)


async def test_what_still_waits_for_a_thread_is_not_doubled(held):
    site = Site(None, {"asgi.handshake_threads": "1"})
    async with site.opened(), site.opened():
        site.policy.hold = held.wait
        site.watch().check_all(0)
        await held.reached()
        await wait_until(lambda: site.app.handshakes.repetitions._queue.jobs)
        site.watch().check_all(0)
        await wait_until(lambda: not site.watch()._unchecked)
        held.go_on()
        await site.app.handshakes.drain(20)
        await site.asked(0)
        await site.app.handshakes.drain(20)
    # Two handshakes, the first one's repetition, which had begun, and another; the other one's.
    assert len(site.requests) == 5


async def test_whoever_leaves_leaves_nothing_behind():
    site, other = Site(NEVER), Site()
    for kind in ("websocket", "stream", "http"):
        async with site.opened(kind):
            site.watch().check_all(NEVER)
        async with other.opened(kind):
            await other.asked()
    assert_nothing_is_left(site)
    assert_nothing_is_left(other)


async def test_who_is_asked_at_its_interval_meanwhile_is_not_checked_besides():
    site = Site(0.05)
    async with site.opened(), site.opened():
        site.watch().check_all(NEVER)
        await site.asked(6)
        assert not site.watch()._unchecked


async def test_who_could_not_be_asked_is_asked_again_after_30_seconds(monkeypatch):
    monkeypatch.setattr(revalidation, "RETRY", 0.01)
    site = Site(None)
    async with site.opened() as client:
        site.policy.error = OSError("the database is down")
        site.watch().check_all(0)
        await site.asked(4)
        site.policy.error = None
        await site.asked(1)
        count = len(site.requests)
        await asyncio.sleep(0.05)
        assert len(site.requests) <= count + 1
        assert not client.task.done()


async def test_a_check_of_nobody_does_nothing():
    site = Site()
    site.watch().check_all(5)
    assert_nothing_is_left(site)


async def test_who_leaves_or_comes_while_all_are_checked():
    site = Site(NEVER)
    async with site.opened(), site.opened() as second, site.opened():
        site.watch().check_all(0.1)
        await second.leave()
        async with site.opened():
            await wait_until(lambda: not site.watch()._unchecked)
            await site.app.handshakes.drain(20)
    # Two of them twice, and the others once.
    assert len(site.requests) == 6


# What is logged.


async def test_of_many_failures_one_line_is_logged(caplog):
    site = Site()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(site.opened())
        site.policy.error = OSError("the database is down")
        await site.asked(100)
    own = [record for record in caplog.records if record.name == revalidation.__name__]
    assert [record.levelno for record in own] == [logging.ERROR]
    assert own[0].exc_info[1] is site.policy.error


def test_the_next_line_has_the_number_of_those_that_were_not_logged(caplog, monkeypatch):
    failures = Failures(Consumer("/x", "websocket", print, "func"))
    context = contextvars.copy_context()
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        failures.tell(OSError("one\n"), context)
    monkeypatch.setattr(revalidation, "LOG_INTERVAL", 0)
    failures.tell(503, context)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "ERROR",
            "A handshake of websocket consumer /x (func) could not be repeated, so its connection"
            r" stays for now: one\n (and 0 more since the last such line)",
        ),
        *[
            (
                "DEBUG",
                r"A handshake of websocket consumer /x (func) could not be repeated: one\n",
            )
        ]
        * 2,
        (
            "ERROR",
            "A handshake of websocket consumer /x (func) could not be repeated, so its connection"
            " stays for now: 503 (and 2 more since the last such line)",
        ),
    ]


# Declarations.


WRONG = [0, -1, 0.0, float("nan"), float("inf"), 10**6 + 1, True, False, "5", "5s", b"5", [5]]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("directive", ["add_asgi_consumer", "add_websocket", "add_event_stream"])
def test_an_interval_that_is_none_is_named(config, directive, value):
    arguments = ("websocket", answers_on) if directive == "add_asgi_consumer" else (echoes,)
    expected = (
        f"{directive}: revalidate must be a number of seconds above 0 and at most 1000000, or None,"
        f" not {value!r}"
    )
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        getattr(config, directive)("/x", *arguments, permission="stay", revalidate=value)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1000001", "5s", "", None])
def test_a_setting_that_is_none_is_named(config, value):
    config.add_settings({"asgi.revalidate": value})
    expected = (
        f"asgi.revalidate must be a number of seconds above 0 and at most 1000000, not {value!r}"
    )
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        config.make_asgi_app()


def test_a_plain_consumer_has_no_handshake_to_repeat(config):
    config.add_websocket("/x", echoes, revalidate=5)
    with pytest.raises(ConfigurationError, match="revalidate=5 is for a guarded consumer"):
        config.make_asgi_app()


@pytest.mark.parametrize("value", [5, 0.5, 10**6, None])
def test_an_interval_is_introspectable(config, value):
    config.add_websocket("/x", echoes, permission="stay", revalidate=value)
    config.commit()
    entry = config.introspector.get("asgi consumers", ("asgi consumer", "websocket", "/x"))
    assert entry["revalidate"] == value


@asgi_consumer_config("/asgi", "http", permission="stay", revalidate=1)
async def declared_consumer(scope, receive, send):
    """Found by a scan."""


@event_stream_config("/stream", permission="stay", revalidate=2)
async def declared_stream(stream):
    """Found by a scan."""


@websocket_config("/websocket", permission="stay", revalidate=3)
async def declared_websocket(websocket):
    """Found by a scan."""


def test_decorators_take_it(config):
    config.scan(__name__)
    config.commit()
    declared = {each.path: each.revalidate for each in config.registry.getUtility(IConsumerMapper)}
    assert declared == {"/asgi": 1, "/stream": 2, "/websocket": 3}
