"""Clients that leave consumers which do not receive, on every ASGI server."""

import contextlib
import re

import pytest

from tests.support import clients
from tests.support.sent import MIB
from tests.support.servers import TRACEBACK, wait_until

APP = "tests.apps.leavingapp:app"


@pytest.fixture
def quiet(server):
    """The test leaves no traceback in the server's log."""
    since = server.position()
    yield
    # Where a client closes while somebody waits to send, websockets 17.4's legacy implementation
    # fails at its answer, and says so itself.
    log = re.sub(
        r"ERROR:    data transfer failed\nTraceback.*?\nAssertionError\n",
        "",
        server.logged(since),
        flags=re.DOTALL,
    )
    assert TRACEBACK not in log


def happened(server, what):
    return clients.get(server, "/state").json.get(what, 0)


def wait_for_the_end(server, name, count=1):
    wait_until(lambda: happened(server, f"{name} ended") == count, f"the end of {name}", server)


def send_request(connection, path, method="GET", *lines):
    head = [f"{method} {path} HTTP/1.1", f"Host: {clients.HOST}", *lines, "", ""]
    connection.sendall("\r\n".join(head).encode())


@contextlib.contextmanager
def opened(server, path, **options):
    """A websocket that reads what the test reads, and no more."""
    with clients.raw(server, **options) as connection:
        send_request(connection, path, "GET", *clients.UPGRADE)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        assert b" 101 " in head
        yield connection


def go(connection, how):
    """Leave a websocket: say so and read what still comes, or reset the connection."""
    if how == "resets":
        return clients.leave(connection)
    # The code 1000, masked with zeros.
    connection.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
    clients.read_to_end(connection)


WAYS = ["closes", "resets"]


# Who sends without an end.

FLOODS = ["flood", "plain_flood"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("kind", FLOODS)
def test_a_websocket_that_is_flooded_leaves(server, quiet, kind, how):
    name = f"{kind}-{how}"
    with opened(server, f"/{kind}/{name}") as connection:
        clients.read_bytes(connection, 10 * MIB)
        # The others get their turn while it stays.
        assert clients.get(server, "/").status == 200
        go(connection, how)
    wait_for_the_end(server, name)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    ("kind", "path"),
    [("consumer", "/http_flood/"), ("view", "/endless?name=")],
    ids=["consumer", "view"],
)
def test_a_response_without_an_end_is_left(server, quiet, kind, path, how):
    name = f"{kind}-response-{how}"
    with clients.raw(server) as connection:
        send_request(connection, path + name)
        clients.read_bytes(connection, 10 * MIB)
        assert clients.get(server, "/").status == 200
        if how == "resets":
            clients.leave(connection)
    wait_for_the_end(server, name)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    ("kind", "path"),
    [("consumer", "/http_flood/"), ("view", "/endless?name=")],
    ids=["consumer", "view"],
)
def test_a_response_without_an_end_is_left_by_who_has_asked_for_more(
    server, quiet, kind, path, how
):
    # Servers read no more for now, and find out as they write.
    name = f"{kind}-pipelined-{how}"
    with clients.raw(server) as connection:
        send_request(connection, path + name)
        send_request(connection, "/")
        clients.read_bytes(connection, MIB)
        if how == "resets":
            clients.leave(connection)
    wait_for_the_end(server, name)


@pytest.mark.parametrize("kind", [*FLOODS, "http_flood"])
def test_a_flood_waits_for_a_slow_client(server, kind):
    name = f"{kind}-slow"
    with clients.raw(server, receive_buffer=65536) as connection:
        upgrade = () if kind == "http_flood" else clients.UPGRADE
        send_request(connection, f"/{kind}/{name}", "GET", *upgrade)
        clients.read_bytes(connection, MIB)
        made = clients.standing_still(lambda: happened(server, f"{name} sent"))
        # What the client has not taken is in the buffers of server and kernel.
        assert made * 65536 < 12 * MIB
        clients.read_bytes(connection, MIB)
        clients.leave(connection)
    wait_for_the_end(server, name)


# Who does not receive. All of them are waited for together: each takes its time.


def test_places_are_given_back(server, quiet):
    kinds = ("silent", "subscriber", "relaying")
    for round, how in enumerate(WAYS, 1):
        for kind in kinds:
            path = f"/{kind}/{kind}"
            # Two are open at most.
            with clients.websocket(server, path) as one, clients.websocket(server, path) as other:
                for websocket in (one, other):
                    for message in ("first", "second"):
                        websocket.send(message)
                    if how == "resets":
                        clients.leave(websocket.socket)
        for kind in kinds:
            wait_for_the_end(server, kind, 2 * round)


@pytest.mark.parametrize("kind", ["echo", "plain_echo"])
def test_clients_that_send_a_lot_and_leave_before_it_is_answered_are_noticed(server, kind):
    # Two are open at most.
    for number in range(1, 6):
        with opened(server, f"/{kind}/{kind}") as connection:
            connection.sendall(b"\x81\x82\0\0\0\0hi" * 300)
            clients.leave(connection)
        wait_for_the_end(server, kind, number)


def test_a_client_that_sends_fifteen_messages_and_leaves_is_noticed(server, quiet):
    with clients.websocket(server, "/silent/fifteen") as websocket:
        for _ in range(15):
            websocket.send("unread")
    wait_for_the_end(server, "fifteen")


def test_a_plain_consumer_that_only_sends_hears_of_it(server, quiet):
    with opened(server, "/plain_ticks/plain-ticks") as connection:
        clients.read_until(connection, b"tick")
        go(connection, "closes")
    wait_for_the_end(server, "plain-ticks")


def test_a_plain_consumer_that_sends_while_another_task_receives_hears_of_it(server):
    ends = [f"{reader}-{how}" for reader in ("ends", "goes-on") for how in WAYS]
    for name in ends:
        reader, how = name.rsplit("-", 1)
        with opened(server, f"/plain_chat/{reader}/chat-{name}") as connection:
            clients.read_until(connection, b"tick")
            go(connection, how)
    for name in ends:
        wait_for_the_end(server, f"chat-{name}")


def test_http_consumers_that_do_not_receive_are_cancelled(server, quiet):
    first = {"http_events": b"data: 1\n\n", "http_ticks": b"tick\n", "guarded": b"data: 1\n\n"}
    for kind, mark in first.items():
        with clients.raw(server) as connection:
            send_request(connection, f"/{kind}/{kind}")
            clients.read_until(connection, mark)
    # One that has not answered yet, and one that has read its request's body.
    with clients.raw(server) as connection:
        send_request(connection, "/http_waits/http_waits")
        wait_until(lambda: happened(server, "http_waits began"), "the request", server)
    with clients.raw(server) as connection:
        send_request(connection, "/http_upload/http_upload", "POST", "Content-Length: 100000")
        connection.sendall(b"x" * 100000)
        clients.read_until(connection, b"100000 read\n")
    for kind in (*first, "http_waits", "http_upload"):
        wait_for_the_end(server, kind)


def test_an_http_consumer_whose_client_waits_for_leave_to_send_is_cancelled(server, quiet):
    with clients.raw(server) as connection:
        body = ("Content-Length: 5", "Expect: 100-continue")
        send_request(connection, "/http_ticks/http_expects", "POST", *body)
        if server.name == "daphne":
            # It asks for the body by itself, and calls the application when it is there.
            clients.read_until(connection, b"100 Continue")
            connection.sendall(b"12345")
        clients.read_until(connection, b"tick\n")
    wait_for_the_end(server, "http_expects")


# The request's line, and what is sent of its body.
REQUESTS = {
    "POST without a body": ("POST", "Content-Length: 0", b""),
    "POST with a body": ("POST", "Content-Length: 3", b"abc"),
    "GET with half a body": ("GET", "Content-Length: 10", b"ab"),
    "GET with a chunk of many": ("GET", "Transfer-Encoding: chunked", b"2\r\nab\r\n"),
}


def test_no_request_keeps_the_place_of_a_client_that_has_left(server, quiet):
    for number, (method, line, body) in enumerate(REQUESTS.values()):
        with clients.raw(server) as connection:
            send_request(connection, f"/http_ticks/request-{number}", method, line)
            connection.sendall(body)
            if server.name != "daphne" or number < 2:
                # Daphne waits for the whole body.
                clients.read_until(connection, b"tick\n")
            clients.leave(connection)
    for number in range(4):
        # Daphne calls no consumer for half a body.
        began = happened(server, f"request-{number} began")
        wait_for_the_end(server, f"request-{number}", began)


def test_http_consumers_that_send_while_another_task_receives_are_told(server, quiet):
    since = server.position()
    for kind in ("http_feed", "http_insists"):
        with clients.raw(server) as connection:
            send_request(connection, f"/{kind}/{kind}")
            clients.read_until(connection, b"tick\n")
            clients.leave(connection)
    for kind in ("http_feed", "http_insists"):
        wait_for_the_end(server, kind)
    assert happened(server, "http_feed was told") == 1
    assert server.logged(since).count("goes on 0.5 s after its client has left: cancelled") == 1


def test_http_consumers_that_hear_of_it_or_have_answered_go_on(server, quiet):
    with clients.raw(server) as connection:
        send_request(connection, "/http_listens/listens")
        clients.read_until(connection, b"listening")
    with clients.raw(server) as connection:
        send_request(connection, "/http_afterwards/afterwards", "GET", "Connection: close")
        clients.read_until(connection, b"done")
    for name in ("listens", "afterwards"):
        wait_for_the_end(server, name)
        assert happened(server, f"{name} finished") == 1
    assert happened(server, "listens heard of it") == 1


# Who has been told.


def test_functions_that_go_on_are_cancelled(server, quiet):
    since = server.position()
    ways = ("iteration", "receive", "wait_closed", "send")
    for way in ways:
        with opened(server, f"/lingers/{way}/lingers-{way}") as connection:
            clients.read_until(connection, b"hello")
            go(connection, "closes")
    for way in ways:
        wait_for_the_end(server, f"lingers-{way}")
    # Where one sends, the watcher may have been faster.
    lines = server.logged(since).count("goes on 0.5 s after its client has left: cancelled")
    assert lines in (3, 4)


def test_functions_that_try_again_for_ever_stop_nobody_and_are_cancelled(server, quiet):
    ways = ("receive", "iteration", "send", "accept", "close")
    for way in ways:
        with opened(server, f"/swallows/{way}/swallows-{way}") as connection:
            clients.read_until(connection, b"hello")
            go(connection, "closes")
        assert clients.get(server, "/").status == 200
    for way in ways:
        wait_for_the_end(server, f"swallows-{way}")


# Who does not wait long.


@pytest.mark.parametrize("kind", ["impatient", "plain_impatient"])
def test_a_receive_that_is_cancelled_loses_no_message(server, kind):
    sent = [str(number) for number in range(1500)]
    with clients.websocket(server, f"/{kind}/{kind}") as websocket:
        for number in sent:
            websocket.send(number)
        websocket.send("end")
        assert websocket.recv(20) == " ".join([*sent, "end"])
    wait_for_the_end(server, kind)
