"""Event streams on every ASGI server: clients that leave, and that come again."""

import contextlib
import http.client
import json
import random
from urllib.parse import urlencode

import pytest

from pyramid_asgi_consumers.testing.events import EventParser
from tests.support import clients
from tests.support.clients import DEADLINE, HOST
from tests.support.servers import TRACEBACK, wait_until
from tests.support.streams import cases

pytestmark = pytest.mark.streams

APP = "tests.apps.streamsapp:app"


@pytest.fixture
def quiet(server):
    """The test leaves no traceback in the server's log."""
    since = server.position()
    yield
    assert TRACEBACK not in server.logged(since)


def send_request(connection, path, method="GET", *lines):
    head = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", *lines, "", ""]
    connection.sendall("\r\n".join(head).encode())


def wait_for(server, names, what):
    def have():
        state = clients.get(server, "/state").json
        return all(state.get(f"{name} {what}") for name in names)

    wait_until(have, f"{names}, all {what}", server)


KINDS = ["before", "silent", "waiting", "relaying", "flood"]
GUARDED = [f"guarded/{kind}" for kind in KINDS]


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_client_that_leaves_cancels_the_function(server, quiet, how):
    names = []
    with contextlib.ExitStack() as stack:
        connections = []
        for number, path in enumerate(KINDS + GUARDED):
            connection = stack.enter_context(clients.raw(server))
            connections.append(connection)
            names.append(f"{path.rpartition('/')[2]}-{how}{number}")
            send_request(connection, f"/{path}/{how}{number}")
            if "before" not in path:
                clients.read_until(connection, b"\n\n")
        wait_for(server, names, "begun")
        for connection in connections:
            if how == "resets":
                clients.leave(connection)
    wait_for(server, names, "ended")


def test_nothing_is_left_of_a_client_that_has_left(server, quiet):
    for name in ("ann", "ben", "cid"):
        readers = []

        def admitted():
            reader = reading(server, f"/alone/{name}")  # noqa: B023
            if reader.response.status == 200:
                readers.append(reader)  # noqa: B023
            else:
                # The place of the last one is about to be free.
                reader.connection.close()
            return readers  # noqa: B023

        wait_until(admitted, "a free place", server)
        with readers[0] as reader:
            assert json.loads(reader.next().data) == [name]


def test_head_accept_and_post(server, quiet):
    answer = clients.get(server, "/silent/x", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert clients.get(server, "/silent/x", headers={"Accept": "text/html"}).status == 406
    answer = clients.get(server, "/silent/x", method="POST", body=b"x")
    assert (answer.status, answer.body) == (200, b"Pyramid got POST")


def test_what_is_sent_is_read_as_the_standard_has_it(server, quiet):
    with reading(server, "/exact") as reader:
        got = []
        while not got or got[-1].event != "end":
            got.append(reader.next())
    expected_id = ""
    for event, (data, name, id) in zip(got, cases(), strict=False):
        expected_id = expected_id if id is None else id
        assert event.data == data.replace("\r\n", "\n").replace("\r", "\n")
        assert (event.event, event.id) == (name or "message", expected_id)


class reading:
    """A client that reads the stream at ``path``; ``names`` are the channels that it relays."""

    def __init__(self, server, path, names=(), last_event_id="", cut=None):
        self.connection = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)
        headers = {"X-Channels": "|".join(names)} if names else {}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        self.connection.request("GET", path, headers=headers)
        self.response = self.connection.getresponse()
        self.parser = EventParser(last_event_id)
        self.cut = cut

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.response.close()
        clients.leave(self.connection.sock)

    def next(self):
        """The next event, None where the connection was cut before."""
        while (event := self.parser.take()) is None:
            data = self.response.read1(1000 if self.cut is None else min(1000, self.cut))
            assert data, "the stream has ended"
            self.parser.feed(data)
            if self.cut is not None:
                self.cut -= len(data)
                if not self.cut:
                    return self.parser.take()
        return event


@pytest.mark.parametrize("names", [["one"], ["a,b", "c:d", "e=f", "100%", "g h"]])
def test_a_stream_that_is_cut_anywhere_loses_nothing(server, quiet, names):
    chance = random.Random(len(names))
    ours = [f"{name} of {server.name}" for name in names]
    with reading(server, "/relay", ours) as reader:
        while not (last := reader.parser.last_event_id):
            reader.parser.feed(reader.response.read1(1000))
    published, got = 0, []

    def take(reader):
        while (event := reader.parser.take()) is not None:
            got.append(event)

    for _ in range(20):
        more = published + 25
        query = urlencode([("begin", published), ("end", more), *(("name", each) for each in ours)])
        assert clients.get(server, f"/publish?{query}").status == 200
        published = more
        with reading(server, "/relay", ours, last, chance.randrange(1, 4000)) as reader:
            while reader.cut and len(got) < published:
                event = reader.next()
                if event is not None:
                    got.append(event)
            take(reader)
            last = reader.parser.last_event_id
    with reading(server, "/relay", ours, last) as reader:
        while len(got) < published:
            got.append(reader.next())
    assert {event.event for event in got} == {"message"}
    data = [json.loads(event.data) for event in got]
    numbers = [(each["data"] if len(names) > 1 else each)["number"] for each in data]
    assert sorted(numbers) == list(range(published))
