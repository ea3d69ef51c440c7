"""Who is put out by ``disconnect``, on every ASGI server: see ``usersapp.py``."""

import contextlib
import itertools
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers.test_servers import LATE, check
from tests.support import clients
from tests.support.clients import DEADLINE
from tests.support.servers import COMMANDS, TRACEBACK, running, wait_until
from tests.support.users import User, happened, is_whole, wait_for

pytestmark = pytest.mark.streams

APP = "tests.apps.usersapp:app"

#: What ``asgi.leave_timeout`` is there, in seconds.
LEAVE_TIMEOUT = 1


#: What the application is inside of, and the servers: another module has others.
AROUND = "nothing"
SERVERS = (*COMMANDS,)


def pytest_generate_tests(metafunc):
    metafunc.parametrize("server", metafunc.module.SERVERS, indirect=True, scope="module")


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    around = request.module.AROUND
    directory = tmp_path_factory.mktemp(request.param)
    with running(request.param, directory, APP, environ={"AROUND": around}) as server:
        server.around = around
        yield server


@pytest.fixture
def since(server):
    """Where the server's log ends; the test leaves no traceback in it."""
    since = server.position()
    yield since
    assert TRACEBACK not in server.logged(since)


@pytest.fixture
def ann(server):
    return User(server, "ann")


#: Each of them is another one.
bens = itertools.count()


@pytest.fixture
def ben(server):
    """Somebody else, who notices nothing."""
    name = f"ben{next(bens)}"
    ben = User(server, name)
    with (
        ben.websocket(server, f"/echoes/{name}") as echoing,
        ben.websocket(server, f"/plain_echoes/{name}") as plain,
        ben.response(server, f"/stream_sleeps/{name}", b"begun"),
        ben.response(server, f"/http_ticks/{name}", b"tick\n") as ticking,
    ):
        yield ben
        for websocket in (echoing, plain):
            websocket.send("still here")
            assert websocket.recv(DEADLINE) == "still here"
        for _ in range(3):
            assert ticking.readline() == b"tick\n"
        for kind in ("echoes", "plain_echoes", "stream_sleeps", "http_ticks"):
            assert not happened(server, f"{kind}-{name} ended")


def has_ended_in_time(server, name, began):
    wait_for(server, f"{name} ended")
    assert in_time(began)


def in_time(began):
    """Whether it is not much later than ``asgi.leave_timeout``."""
    # A machine may be slow.
    return time.monotonic() < began + LEAVE_TIMEOUT + 1.8


def closings(server, since):
    return server.logged(since).count("is closed with 4401")


OPEN = ["echoes", "relays", "sleeps", "tidies", "plain_echoes", "plain_sleeps", "plain_ticks"]


@pytest.mark.parametrize("kind", OPEN)
def test_an_open_websocket_is_closed_with_4401_and_the_reason(server, since, ann, ben, kind):
    with ann.websocket(server, f"/{kind}/{kind}") as websocket:
        wait_for(server, f"{kind}-{kind} began")
        began = time.monotonic()
        ann.logs_out(server)
        end = clients.closed(websocket)
    assert (end.code, end.reason) == (4401, "logged out")
    has_ended_in_time(server, f"{kind}-{kind}", began)
    assert closings(server, since) == 1


def test_its_consumer_hears_why(server, since, ann):
    before = happened(server, "plain_echoes heard 4401 logged out")
    with ann.websocket(server, "/plain_echoes/hears") as websocket:
        ann.logs_out(server)
        assert clients.closed(websocket).code == 4401
    wait_for(server, "plain_echoes heard 4401 logged out", before + 1)


def test_a_function_may_tidy_up(server, since, ann):
    before = happened(server, "tidied")
    with ann.websocket(server, "/tidies/tidy") as websocket:
        ann.logs_out(server)
        assert clients.closed(websocket).code == 4401
    wait_for(server, "tidied", before + 1)


@pytest.mark.parametrize("kind", ["connects", "plain_connects"])
def test_one_that_is_not_open_yet_is_refused(server, since, ann, ben, kind):
    with ThreadPoolExecutor() as pool:
        status = pool.submit(ann.handshake_status, server, f"/{kind}/{kind}")
        wait_for(server, f"{kind}-{kind} began")
        began = time.monotonic()
        ann.logs_out(server)
        assert status.result(DEADLINE) == 403
    has_ended_in_time(server, f"{kind}-{kind}", began)
    assert closings(server, since) == 1


#: A handshake that is refused, and a websocket that is closed.
PUT_OUT = re.compile(rb"HTTP/1.1 403 |\x88\x0c\x11\x31logged out")


def test_one_that_is_just_being_opened_does_not_slip_through(server, since, ann, ben):
    for number in range(20):
        with clients.raw(server) as connection:
            ann.send_request(connection, f"/leaves/leaves{number}", *clients.UPGRADE)
            data = b""
            while not PUT_OUT.search(data):
                chunk = connection.recv(65536)
                assert chunk, data
                data += chunk
    for number in range(20):
        wait_for(server, f"leaves-leaves{number} ended")


@pytest.mark.parametrize("kind", ["streams", "stream_sleeps"])
def test_an_event_stream_ends_whole(server, since, ann, ben, kind):
    with ann.response(server, f"/{kind}/{kind}", b"\n\n") as response:
        began = time.monotonic()
        ann.logs_out(server)
        assert is_whole(response)
    has_ended_in_time(server, f"{kind}-{kind}", began)
    assert closings(server, since) == 1


@pytest.mark.parametrize("kind", ["http_ticks", "http_listens"])
def test_a_response_of_another_consumer_is_broken_off(server, since, ann, ben, kind):
    with ann.response(server, f"/{kind}/{kind}", b"\n") as response:
        began = time.monotonic()
        ann.logs_out(server)
        check(server, LATE, not is_whole(response))
    has_ended_in_time(server, f"{kind}-{kind}", began)
    assert closings(server, since) == 1


@pytest.mark.parametrize("kind", ["stream_begins", "http_begins"])
def test_a_response_that_has_not_begun_is_403(server, since, ann, ben, kind):
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(clients.get, server, f"/{kind}/{kind}", headers=ann.headers)
        wait_for(server, f"{kind}-{kind} began")
        began = time.monotonic()
        ann.logs_out(server)
        assert answer.result(DEADLINE).status == 403
    has_ended_in_time(server, f"{kind}-{kind}", began)
    assert closings(server, since) == 1


def test_all_connections_of_the_user_are_closed(server, since, ann, ben):
    with contextlib.ExitStack() as stack:
        websockets = [
            stack.enter_context(ann.websocket(server, f"/{kind}/all"))
            for kind in OPEN
            for _ in "xy"
        ]
        with (
            ann.response(server, "/streams/all", b"\n\n") as whole,
            ann.response(server, "/http_ticks/all", b"tick\n") as broken,
        ):
            ann.logs_out(server)
            assert {clients.closed(websocket).code for websocket in websockets} == {4401}
            assert is_whole(whole)
            check(server, LATE, not is_whole(broken))
    assert closings(server, since) == len(websockets) + 2


@contextlib.contextmanager
def opened(server, user, path):
    """A websocket that answers no close."""
    with clients.raw(server, receive_buffer=4096) as connection:
        user.send_request(connection, path, *clients.UPGRADE)
        assert b" 101 " in clients.read_until(connection, b"\r\n\r\n")
        yield connection


@pytest.mark.parametrize("kind", ["echoes", "sleeps", "plain_echoes", "plain_sleeps"])
def test_who_never_answers_the_close_keeps_no_place(server, since, ann, ben, kind):
    with opened(server, ann, f"/{kind}/mute-{kind}"):
        wait_for(server, f"{kind}-mute-{kind} began")
        began = time.monotonic()
        ann.logs_out(server)
        has_ended_in_time(server, f"{kind}-mute-{kind}", began)


FLOODS = ["floods", "plain_floods", "stream_floods", "http_floods"]


@pytest.mark.parametrize("kind", FLOODS)
def test_who_reads_nothing_keeps_no_place(server, since, ann, ben, kind):
    """There is one place, which is free for the next one then."""
    lines = clients.UPGRADE if kind in ("floods", "plain_floods") else ("Connection: close",)
    with clients.raw(server, receive_buffer=4096) as connection:
        ann.send_request(connection, f"/{kind}/full", *lines)
        assert clients.read_until(connection, b"\r\n\r\n").split()[1] in (b"101", b"200")
        wait_for(server, f"{kind}-full began")
        began = time.monotonic()
        ann.logs_out(server)
        has_ended_in_time(server, f"{kind}-full", began)
        assert closings(server, since) == 1

        def is_free():
            if "stream" in kind or "http" in kind:
                return clients.get(server, f"/{kind}/next", headers=ben.headers).status == 200
            try:
                with ben.websocket(server, f"/{kind}/next") as websocket:
                    return clients.closed(websocket).code == 1000
            except clients.InvalidStatus:
                return False

        wait_until(is_free, "its place", server)
        assert in_time(began)
        # A code may not have found its way behind all that was not read.
        with contextlib.suppress(ConnectionResetError):
            clients.read_to_end(connection)


# Who says so, and how.


@pytest.mark.parametrize("page", ["/logout", "/async_logout"])
def test_views_of_both_kinds_put_their_user_out(server, since, ann, ben, page):
    with ann.websocket(server, "/echoes/views") as websocket:
        ann.logs_out(server, page)
        end = clients.closed(websocket)
    assert (end.code, end.reason) == (4401, "logged out")


def test_another_user_is_put_out(server, since, ann, ben):
    with ann.websocket(server, "/echoes/banned") as websocket:
        assert ben.post(server, "/banned", user="ann").status == 200
        end = clients.closed(websocket)
    assert (end.code, end.reason) == (4401, "banned")


def test_a_websocket_puts_somebody_out(server, since, ann, ben):
    with (
        ann.websocket(server, "/echoes/put-out") as websocket,
        ben.websocket(server, "/puts_out/ben") as other,
    ):
        other.send("ann")
        assert other.recv(DEADLINE) == "done"
        end = clients.closed(websocket)
    assert (end.code, end.reason) == (4401, "put out")


@pytest.mark.parametrize("how", ["raises", "dooms", "aborts"])
def test_a_transaction_that_is_aborted_closes_nothing(server, since, ann, how):
    with ann.websocket(server, "/echoes/aborted") as websocket:
        assert ann.post(server, "/aborted", how=how).status == (400 if how == "raises" else 200)
        # Were it closed, it would be before this, which is given later.
        assert ann.post(server, "/banned", user="nobody").status == 200
        websocket.send("still here")
        assert websocket.recv(DEADLINE) == "still here"
    assert closings(server, since) == 0


def test_who_logs_in_again_may_come_again(server, since, ann):
    with ann.websocket(server, "/echoes/again") as websocket:
        ann.logs_out(server)
        assert clients.closed(websocket).code == 4401
    with User(server, "ann").websocket(server, "/echoes/again") as websocket:
        websocket.send("here again")
        assert websocket.recv(DEADLINE) == "here again"


USERS = ["int:5", f"uuid:{'1234' * 8}", 'tuple:["a", 1]', 'list:["a"]', "person:ann"]


@pytest.mark.parametrize("user", USERS)
def test_users_of_any_kind_are_put_out(server, since, ben, user):
    known = User(server, user)
    with known.websocket(server, "/echoes/kind") as websocket:
        known.logs_out(server)
        assert clients.closed(websocket).code == 4401
