"""Users are put out in all processes, which Redis connects: see ``usersapp.py``."""

import asyncio
import contextlib
import logging
import re
import signal
import time

import pytest
from pyramid.config import Configurator
from websockets.exceptions import ConnectionClosed

from pyramid_asgi_consumers.testing import TestApp
from pyramid_asgi_consumers.testing import serving as serving_here
from tests.support import asgi, clients, members
from tests.support.asgi import websocket_scope
from tests.support.clients import DEADLINE
from tests.support.forwarder import forwarding
from tests.support.members import has_members
from tests.support.pserve import SERVERS, pserve
from tests.support.redis_server import running_redis
from tests.support.servers import COMMANDS, TRACEBACK, free_port, running, started, wait_until
from tests.support.users import User, echo, is_whole, wait_for

pytestmark = [pytest.mark.redis, pytest.mark.streams]

APP = "tests.apps.usersapp:app"

UVICORN = "uvicorn-sansio"


@contextlib.contextmanager
def serving(directory, *urls, name=UVICORN, timeout=5):
    """A process for each of these URLs of Redis."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                running(
                    name,
                    directory,
                    APP,
                    environ={"CHANNELS": url, "CHANNELS_TIMEOUT": str(timeout)},
                )
            )
            for url in urls
        ]


@pytest.fixture(scope="module")
def two(redis_server, tmp_path_factory):
    """Two processes."""
    directory = tmp_path_factory.mktemp("two")
    with serving(directory, redis_server.url, redis_server.url) as servers:
        yield servers


@pytest.fixture
def quiet(two):
    """The test leaves no traceback in the logs."""
    positions = [server.position() for server in two]
    yield
    for server, since in zip(two, positions, strict=True):
        assert TRACEBACK not in server.logged(since)


async def end_of(websocket):
    """The close code and the reason with which it ends."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await asyncio.wait_for(websocket.recv(), DEADLINE)
    return closed.value.rcvd.code, closed.value.rcvd.reason


@contextlib.asynccontextmanager
async def opened(users, servers, each=1):
    """So many sockets ``each`` of each user has to each server, by user."""
    async with contextlib.AsyncExitStack() as stack:
        sockets = {user: [] for user in users}
        for user in users:
            for server in servers:
                for _ in range(each):
                    websocket = user.connect(server, "/echoes/crowd")
                    sockets[user].append(await stack.enter_async_context(websocket))
        yield sockets


async def test_of_200_sockets_in_two_processes_those_of_one_user_are_closed(two, quiet):
    users = [User(two[0], f"user{number}") for number in range(20)]
    async with opened(users, two, each=5) as sockets:
        gone = users[7]
        began = time.monotonic()
        await asyncio.to_thread(gone.logs_out, two[0])
        ends = await asyncio.gather(*map(end_of, sockets.pop(gone)))
        print(f"closed within {time.monotonic() - began:.3f} s")
        assert ends == [(4401, "logged out")] * 10
        others = [websocket for each in sockets.values() for websocket in each]
        assert len(others) == 190
        await asyncio.gather(*map(echo, others))


@pytest.mark.parametrize("kind", ["streams", "stream_sleeps", "http_ticks", "http_listens"])
def test_responses_end_in_the_other_process(two, quiet, kind):
    first, second = two
    ann, ben = User(first, "ann"), User(first, "ben")
    with (
        ann.response(second, f"/{kind}/ann", b"\n") as response,
        ben.response(second, "/http_ticks/ben", b"\n") as other,
    ):
        ann.logs_out(first)
        assert is_whole(response) == ("stream" in kind)
        assert other.readline() == b"tick\n"
    wait_for(second, f"{kind}-ann ended")


@pytest.mark.parametrize("how", ["raises", "dooms", "aborts"])
async def test_a_transaction_that_is_aborted_closes_nothing(two, quiet, how):
    first, second = two
    ann, ben = User(first, "ann"), User(first, "ben")
    async with opened([ann, ben], two) as sockets:
        await asyncio.to_thread(ann.post, first, "/aborted", how=how)
        # What is given later comes later.
        await asyncio.to_thread(ben.logs_out, first)
        for websocket in sockets[ben]:
            assert await end_of(websocket) == (4401, "logged out")
        await asyncio.gather(*map(echo, sockets[ann]))


@pytest.mark.parametrize("page", ["/logout", "/async_logout"])
async def test_views_of_both_kinds_put_their_user_out(two, quiet, page):
    ann = User(two[0], "ann")
    async with opened([ann], two) as sockets:
        await asyncio.to_thread(ann.logs_out, two[0], page)
        for websocket in sockets[ann]:
            assert await end_of(websocket) == (4401, "logged out")


async def test_a_websocket_puts_somebody_out(two, quiet):
    ann, ben = User(two[0], "ann"), User(two[0], "ben")
    async with (
        opened([ann, ben], two) as sockets,
        ben.connect(two[0], "/puts_out/ben") as websocket,
    ):
        await websocket.send("ann")
        for each in sockets[ann]:
            assert await end_of(each) == (4401, "put out")
        await asyncio.gather(*map(echo, sockets[ben]))


USERS = [
    "ann",
    "int:5",
    f"uuid:{'1234' * 8}",
    "bytes:ann",
    'tuple:["a", 1]',
    'tuple:["a", ["b"]]',
    'list:["a", 1]',
]


@pytest.mark.parametrize("name", USERS)
async def test_userids_of_these_kinds_are_known_in_other_processes(two, quiet, name):
    gone = User(two[0], name)
    # Those whose text is much the same are others.
    others = [User(two[0], other) for other in ("5", "int:6", 'list:["a"]', "ben", '["a", 1]')]
    async with opened([gone, *others], two) as sockets:
        await asyncio.to_thread(gone.logs_out, two[0])
        for websocket in sockets.pop(gone):
            assert await end_of(websocket) == (4401, "logged out")
        for each in sockets.values():
            await asyncio.gather(*map(echo, each))


def test_a_userid_that_other_processes_cannot_be_told_says_so(two):
    answer = clients.get(two[0], "/untold")
    assert answer.body == (
        b"disconnect: other processes can only be told a userid that is a str, int, float, UUID,"
        b" bytes, or a tuple or list of these, not Person('ann')"
    )


# Processes that start.


async def test_a_process_that_just_starts_hears_what_is_said_from_its_first_handshake_on(
    two, quiet, redis_server, tmp_path
):
    first = two[0]
    users = [User(first, f"early{number}") for number in range(10)]
    with serving(tmp_path, redis_server.url) as (starting,):

        async def comes_and_is_put_out(user):
            async with user.connect(starting, "/echoes/early") as websocket:
                await asyncio.to_thread(user.logs_out, first)
                return await end_of(websocket)

        ends = await asyncio.gather(*map(comes_and_is_put_out, users))
        assert ends == [(4401, "logged out")] * 10
        assert TRACEBACK not in starting.logged()


#: They fork, or start anew.
WORKERS = {
    "gunicorn": "gunicorn --bind 127.0.0.1:{port} --worker-class asgi --graceful-timeout 2"
    " --no-control-socket --workers 2 " + APP,
    "uvicorn": "uvicorn --host 127.0.0.1 --port {port} --workers 2"
    " --timeout-graceful-shutdown 2 " + APP,
}


@pytest.mark.parametrize("name", WORKERS)
async def test_all_workers_of_a_server_hear_of_it(redis_server, tmp_path, name):
    port = free_port()
    command = WORKERS[name].format(port=port).split()
    environ = {"CHANNELS": redis_server.url}
    with started(name, command, port, tmp_path, environ) as server:
        ann, ben = User(server, "ann"), User(server, "ben")
        async with contextlib.AsyncExitStack() as stack:
            processes, hers, his = set(), [], []
            deadline = time.monotonic() + DEADLINE
            while len(processes) < 2:
                assert time.monotonic() < deadline
                for user, sockets in ((ann, hers), (ben, his)):
                    websocket = user.connect(server, "/tells/worker")
                    sockets.append(await stack.enter_async_context(websocket))
                processes.add(await asyncio.wait_for(hers[-1].recv(), DEADLINE))
                await asyncio.wait_for(his[-1].recv(), DEADLINE)
            await asyncio.to_thread(ann.logs_out, server)
            for websocket in hers:
                assert await end_of(websocket) == (4401, "logged out")
            await asyncio.gather(*map(echo, his))
        assert TRACEBACK not in server.logged()


# Redis that is away.

#: The most that a publisher waits for Redis there, in seconds.
TIMEOUT = 1


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory):
    with running_redis(tmp_path_factory.mktemp("own-redis")) as server:
        yield server


@pytest.fixture(scope="module")
def way(own_redis):
    """The way of the second process to Redis, which can be cut."""
    with forwarding(own_redis.port) as forwarder:
        yield forwarder


@pytest.fixture(scope="module")
def apart(own_redis, way, tmp_path_factory):
    """Two processes, each with its own way to Redis."""
    directory = tmp_path_factory.mktemp("apart")
    with serving(directory, own_redis.url, way.url, timeout=TIMEOUT) as servers:
        yield servers


LOST = "Subscriptions are out of touch with Redis"
FOUND = "Subscriptions are in touch with Redis again"


def lost(server, since):
    wait_until(lambda: LOST in server.logged(since), LOST, server)


def found(server, since):
    wait_until(lambda: FOUND in server.logged(since), FOUND, server)


def end(websocket):
    return clients.closed(websocket).code


def answers(websocket):
    websocket.send("still here")
    return websocket.recv(DEADLINE) == "still here"


@contextlib.contextmanager
def present(server, *names):
    """Websockets of these users to ``server``."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(User(server, name).websocket(server, "/echoes/present"))
            for name in names
        ]


def words_work(servers):
    """Who logs out in either process is put out in both."""
    for server in servers:
        with (
            present(servers[0], "cid", "dan") as first,
            present(servers[1], "cid", "dan") as second,
        ):
            User(server, "cid").logs_out(server)
            assert end(first[0]) == end(second[0]) == 4401
            assert answers(first[1]) and answers(second[1])


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_while_redis_is_away_its_own_process_hears_of_it_and_all_goes_on(apart, own_redis, how):
    positions = [server.position() for server in apart]
    away, back = {
        "killed": (own_redis.kill, own_redis.start),
        "stopped": (own_redis.pause, own_redis.resume),
    }[how]
    first, second = apart
    with present(first, "ann", "ben") as mine, present(second, "ann", "ben") as theirs:
        away()
        for server, since in zip(apart, positions, strict=True):
            lost(server, since)
        User(first, "ann").logs_out(first)
        assert end(mine[0]) == 4401
        assert answers(mine[1]) and answers(theirs[1])
        # Handshakes go on, and pages.
        for server in apart:
            with present(server, "eve") as (websocket,):
                assert answers(websocket)
            assert clients.get(server, "/").status == 200
        back()
        for server, since in zip(apart, positions, strict=True):
            found(server, since)
        words_work(apart)
    for server, since in zip(apart, positions, strict=True):
        assert server.logged(since).count(LOST) == 1
        assert TRACEBACK not in server.logged(since)


def test_a_redis_that_is_emptied_carries_words(apart, own_redis):
    positions = [server.position() for server in apart]
    first, second = apart
    with present(first, "ann", "ben") as mine, present(second, "ann", "ben") as theirs:
        own_redis.client.flushall()
        User(first, "ann").logs_out(first)
        assert end(mine[0]) == end(theirs[0]) == 4401
        assert answers(mine[1]) and answers(theirs[1])
    words_work(apart)
    for server, since in zip(apart, positions, strict=True):
        assert TRACEBACK not in server.logged(since)


def test_a_process_that_was_cut_off_hears_what_was_said_meanwhile(apart, own_redis, way):
    first, second = apart
    positions = [server.position() for server in apart]
    with present(first, "ann", "ben") as mine, present(second, "ann", "ben") as theirs:
        way.cut_off()
        lost(second, positions[1])
        User(first, "ann").logs_out(first)
        assert end(mine[0]) == 4401
        assert answers(theirs[0])
        way.lead_to(own_redis.port)
        assert end(theirs[0]) == 4401
        assert answers(mine[1]) and answers(theirs[1])
    words_work(apart)
    assert LOST not in first.logged(positions[0])
    assert second.logged(positions[1]).count(LOST) == 1


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_process_that_starts_while_redis_is_away_lets_people_in(tmp_path, how):
    with running_redis(tmp_path) as redis, serving(tmp_path, *[redis.url] * 2, timeout=4) as two:
        first = two[0]
        away, back = (redis.kill, redis.start) if how == "killed" else (redis.pause, redis.resume)
        away()
        ann = User(first, "ann")
        began = time.monotonic()
        with ann.websocket(first, "/echoes/ann") as websocket:
            waited = time.monotonic() - began
            with ann.websocket(first, "/echoes/ann") as another:
                assert answers(websocket) and answers(another)
                print(f"waited {waited:.3f} s, then {time.monotonic() - began - waited:.3f} s")
                # Half a second, and not for Redis.
                assert waited < 3
                ann.logs_out(first)
                assert end(websocket) == end(another) == 4401
        lost(first, 0)
        back()
        found(first, 0)
        words_work(two)
        assert TRACEBACK not in first.logged()


# The end.


def worth_a_look(log):
    """What of a server's log tells that something was left behind, or went wrong."""
    # Of a connection that Hypercorn 0.18 has cancelled, Python 3.11's asyncio.streams says this,
    # whatever the application is.
    log = re.sub(
        r"ERROR \[asyncio\] Exception in callback .*StreamReaderProtocol"
        r"(.*\n)*?asyncio.exceptions.CancelledError\n",
        "",
        log,
    )
    words = (TRACEBACK, "destroyed", "never awaited", "never retrieved", "ERROR", "Left alone")
    return [word for word in words if word in log]


@pytest.mark.parametrize("left", ["open", "closed"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_server_that_listens_stops_as_before(redis_server, tmp_path, name, left):
    with (
        contextlib.ExitStack() as stack,
        serving(tmp_path, redis_server.url, name=name) as (server,),
    ):
        came_and_perhaps_left(server, stack, left)
        assert server.stop() in (0, -signal.SIGTERM)
        log = server.logged()
    assert worth_a_look(log) == []


def came_and_perhaps_left(server, stack, left):
    """Ann has opened a websocket, which is ``left`` open or closed."""
    ann = User(server, "ann")
    websocket = stack.enter_context(ann.websocket(server, "/echoes/ann"))
    assert answers(websocket)
    if left == "closed":
        websocket.close()
        wait_for(server, "echoes-ann ended")


@pytest.mark.parametrize("left", ["open", "closed"])
@pytest.mark.parametrize("name", SERVERS)
def test_pserve_stops_as_before(redis_server, tmp_path, monkeypatch, name, left):
    monkeypatch.setenv("CHANNELS", redis_server.url)
    with (
        contextlib.ExitStack() as stack,
        pserve(name, tmp_path, app="usersapp") as server,
    ):
        came_and_perhaps_left(server, stack, left)
        assert server.stop() in (0, -signal.SIGTERM)
        log = server.logged()
    assert worth_a_look(log) == []


@pytest.mark.parametrize("how", ["killed", "stopped"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_server_stops_while_redis_is_away(tmp_path, name, how):
    with (
        contextlib.ExitStack() as stack,
        running_redis(tmp_path) as redis,
        serving(tmp_path, redis.url, name=name, timeout=TIMEOUT) as (server,),
    ):
        came_and_perhaps_left(server, stack, "open")
        if how == "killed":
            redis.kill()
            lost(server, 0)
        else:
            redis.pause()
        assert server.stop() in (0, -signal.SIGTERM)
        log = server.logged()
    assert worth_a_look(log) == []
    assert log.count(LOST) == (how == "killed")


def application(url):
    """One with members, whose channels Redis carries."""
    with Configurator(settings={"asgi.channels": url}) as config:
        config.include("pyramid_asgi_consumers")
        has_members(config)
        config.add_websocket("/echo", members.echo, permission="stay")
        return config.make_asgi_app()


def warnings(caplog):
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", SERVERS)
def test_serving_in_a_test_leaves_nothing_behind(redis_server, caplog, name):
    app = application(redis_server.url)
    for _ in "twice":
        with serving_here(app, name) as server:
            ann = User(server, "ann")
            with ann.websocket(server, "/echo") as websocket:
                assert answers(websocket)
                ann.logs_out(server)
                assert end(websocket) == 4401
    assert warnings(caplog) == []


def test_an_event_loop_that_ends_without_a_shutdown_leaves_nothing_behind(redis_server, caplog):
    app = application(redis_server.url)

    async def comes_and_goes():
        scope = websocket_scope("/echo", [(b"cookie", cookie.encode())])
        left = {"type": "websocket.disconnect", "code": 1000}
        sent = await asgi.run(app, scope, asgi.CONNECT, left)
        assert sent[0]["type"] == "websocket.accept"

    with TestApp(app) as testapp:
        testapp.post("/login", {"user": "ann"})
        ((name, value),) = testapp.cookies.items()
        cookie = f"{name}={value}"
    for _ in "twice":
        asyncio.run(comes_and_goes())
    assert warnings(caplog) == []
