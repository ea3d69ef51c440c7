"""Who may stay, as a project has it, on Uvicorn: see ``stayingapp.py``."""

import contextlib
import itertools
import time

import pytest

from tests.support import clients
from tests.support.clients import DEADLINE
from tests.support.servers import TRACEBACK, running, wait_until
from tests.support.users import User, is_whole, post

pytestmark = pytest.mark.streams

KINDS = pytest.mark.parametrize("kind", ["websocket", "stream", "http"])

#: So many seconds sessions last that expire, and so often the application asks.
TIMEOUT = 3
INTERVAL = 0.2

names = itertools.count()


@contextlib.contextmanager
def serving(directory, sessions, timeout):
    environ = {
        "DATABASE": str(directory / "database"),
        "SESSIONS": sessions,
        "TIMEOUT": str(timeout),
    }
    app = "tests.apps.stayingapp:app"
    with running("uvicorn-websockets", directory, app, environ=environ) as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One whose sessions last."""
    with serving(tmp_path_factory.mktemp("lasting"), "signed", 1000) as server:
        yield server


@pytest.fixture(scope="module", params=["signed", "server"])
def expiring(request, tmp_path_factory):
    """One whose sessions expire; they are in signed cookies, or kept on the server."""
    with serving(tmp_path_factory.mktemp(request.param), request.param, TIMEOUT) as server:
        server.sessions = request.param
        yield server


class Member(User):
    """A user of the project, who has logged in."""

    def __init__(self, server):
        self.name = f"ann{next(names)}"
        assert post(server, "/join", name=self.name).status == 200
        self.take(post(server, "/login", name=self.name))

    def take(self, answer):
        """Have the cookie that ``answer`` sets, if any, as a browser has."""
        assert answer.status == 200
        for header in answer.headers.get_all("Set-Cookie", ()):
            self.cookie = header.partition(";")[0]

    def clicks(self, server):
        """Look at a page."""
        answer = clients.get(server, "/", headers=self.headers)
        assert answer.body == f"Hello {self.name}".encode()
        self.take(answer)


@contextlib.contextmanager
def opened(server, user, kind, room):
    """A connection of ``user`` to ``room``; yields what waits for its end."""
    if kind == "websocket":
        with user.websocket(server, f"/{room}/echoes") as websocket:
            yield lambda: assert_closed(websocket, 4403)
    else:
        with user.response(server, f"/{room}/{kind}", b"tick") as response:
            # The server breaks off what has no end of its own.
            yield lambda: is_whole(response) == (kind == "stream") or pytest.fail("no such end")


def assert_closed(websocket, code, reason=None):
    end = clients.closed(websocket)
    if reason is None:
        reason = "no longer permitted" if code == 4403 else "another user"
    assert (end.code, end.reason) == (code, reason)


def assert_open(websocket):
    websocket.send("still here")
    assert websocket.recv(DEADLINE) == "still here"


# Sessions.


@KINDS
def test_a_session_that_expires_ends_what_is_open(expiring, kind):
    ann = Member(expiring)
    with opened(expiring, ann, kind, "blue") as ended:
        began = time.monotonic()
        ended()
        assert time.monotonic() - began > TIMEOUT / 2
    assert ann.handshake_status(expiring, "/blue/echoes") == 403


def test_who_looks_at_pages_has_a_session_and_a_new_handshake_finds_it(expiring):
    ann = Member(expiring)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(ann.websocket(expiring, "/blue/echoes"))
        until = time.monotonic() + 1.5 * TIMEOUT
        while time.monotonic() < until:
            ann.clicks(expiring)
            time.sleep(TIMEOUT / 10)
        if expiring.sessions == "signed":
            # The browser has newer cookies than its socket.
            assert_closed(first, 4403)
            first = stack.enter_context(ann.websocket(expiring, "/blue/echoes"))
        assert_open(first)
        assert_closed(first, 4403)


def test_calls_of_a_connection_keep_its_session_and_the_end_of_them_does_not(expiring):
    ann = Member(expiring)
    with ann.websocket(expiring, "/blue/calls") as websocket:
        until = time.monotonic() + 1.5 * TIMEOUT
        while time.monotonic() < until:
            websocket.send("touch")
            assert websocket.recv(DEADLINE) == "done"
            time.sleep(TIMEOUT / 10)
        assert_closed(websocket, 4403)


def test_a_session_that_is_ended_on_the_server_ends_what_is_open(expiring):
    if expiring.sessions == "signed":
        # Nobody can take a signed cookie back.
        return
    ann = Member(expiring)
    with ann.websocket(expiring, "/blue/echoes") as websocket:
        assert post(expiring, "/logout", ann.headers).status == 200
        assert_closed(websocket, 4403)


# Permissions and users.


@pytest.fixture
def bystander(server):
    """Somebody else, who notices nothing, and a server that logs no traceback."""
    since = server.position()
    ben = Member(server)
    with (
        ben.websocket(server, "/garden/echoes") as websocket,
        ben.response(server, "/garden/stream", b"tick"),
        ben.response(server, "/garden/http", b"tick") as response,
    ):
        yield
        assert_open(websocket)
        for _ in range(3):
            assert response.readline() in (b"tick\n", b"\n")
    assert TRACEBACK not in server.logged(since)


@KINDS
@pytest.mark.usefixtures("bystander")
def test_a_permission_that_is_taken_away_ends_what_is_open(server, kind):
    ann, room = Member(server), f"room{next(names)}"
    with opened(server, ann, kind, room) as ended:
        assert post(server, "/close", room=room).status == 200
        ended()


@KINDS
@pytest.mark.usefixtures("bystander")
def test_a_user_who_is_deleted_is_put_out(server, kind):
    ann = Member(server)
    with opened(server, ann, kind, "blue") as ended:
        assert post(server, "/delete", name=ann.name).status == 200
        ended()


@pytest.mark.usefixtures("bystander")
def test_a_user_who_is_deleted_is_nobody_where_everybody_may_be(server):
    ann = Member(server)
    with ann.websocket(server, "/open") as websocket, clients.websocket(server, "/open") as nobody:
        assert post(server, "/delete", name=ann.name).status == 200
        assert_closed(websocket, 4403, "not logged in")
        assert_open(nobody)


@pytest.mark.usefixtures("bystander")
def test_another_user_who_logs_in_by_a_call_ends_the_connection_of_the_first(server):
    ann = Member(server)
    assert post(server, "/join", name="ben").status == 200
    with ann.websocket(server, "/blue/calls") as websocket:
        websocket.send("log in ben")
        assert_closed(websocket, 4401)


# What goes wrong.


def test_while_the_database_is_down_everybody_stays_and_one_line_says_so(server):
    ann, room, since = Member(server), f"room{next(names)}", server.position()
    line = "A handshake of websocket consumer /{room}/echoes"
    with contextlib.ExitStack() as stack:
        websockets = [
            stack.enter_context(ann.websocket(server, f"/{room}/echoes")) for _ in range(10)
        ]
        assert post(server, "/down", **{"is": "1"}).status == 200
        try:
            wait_until(lambda: line in server.logged(since), "a failure", server)
            time.sleep(5 * INTERVAL)
            for websocket in websockets:
                assert_open(websocket)
        finally:
            assert post(server, "/down", **{"is": "0"}).status == 200
        assert post(server, "/close", room=room).status == 200
        for websocket in websockets:
            assert_closed(websocket, 4403)
    assert server.logged(since).count(line) == 1


def test_a_server_that_stops_while_many_are_asked_leaves_nothing_behind(tmp_path):
    with serving(tmp_path, "signed", 1000) as server, contextlib.ExitStack() as stack:
        ann = Member(server)
        for _ in range(30):
            stack.enter_context(ann.websocket(server, "/blue/echoes", close_timeout=1))
        stack.enter_context(ann.response(server, "/blue/stream", b"tick"))
        time.sleep(3 * INTERVAL)
        assert server.stop() in (0, -15)
        for words in (TRACEBACK, "Task was destroyed", "never retrieved", "still run"):
            assert words not in server.logged()
