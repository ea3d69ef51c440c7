"""Sentry reports each error once: under waitress, and on every ASGI server."""

import pytest

from tests.servers.test_servers import LATE_ERRORS, check
from tests.support import clients
from tests.support.servers import free_port, started, wait_until

pytestmark = pytest.mark.once

APP = "tests.apps.sentryapp:app"

# Reports of the servers themselves: of one that settles, of a websocket that was refused.
OTHERS = {
    "daphne": ["to the server"],
    "uvicorn-sansio": ["ASGI callable returned without completing handshake."],
}
VIEWS = ["fail", "fail_async"]
LATE = ["fail_late", "fail_late_in_a_consumer"]
CONSUMERS = ["fail_in_a_call", "fail_caught", "fail_in_the_consumer", "fail_in_a_function"]


@pytest.fixture(scope="module")
def waitress(tmp_path_factory):
    port = free_port()
    command = ["waitress", f"--listen=127.0.0.1:{port}", "tests.apps.sentryapp:wsgi_app"]
    with started("waitress", command, port, tmp_path_factory.mktemp("waitress")) as server:
        yield server


def reports(server):
    """How often each error was reported."""
    return clients.get(server, "/show").json


def fail_in_views(server, around=""):
    """Have views fail; return the names of the errors."""
    return [fail_in_one(server, view, around) for view in VIEWS]


def fail_in_one(server, path, around):
    name = path + around
    assert clients.get(server, f"/{path}?name={name}").status in (200, 500)
    return name


def fail_elsewhere(server, around):
    """Have handshakes, calls and a consumer fail; return the names of the errors."""
    clients.denial(server, f"/websocket?name=websocket{around}")
    assert clients.get(server, f"/http?name=http{around}").status == 500
    names = {consumer + around: consumer for consumer in CONSUMERS}
    for name, consumer in names.items():
        with clients.websocket(server, f"/{consumer}?name={name}") as websocket:
            code = 1000 if consumer == "fail_caught" else 1011
            assert clients.closed(websocket).code == code
    return [*names, f"websocket{around}", f"http{around}"]


def test_under_waitress_views_that_fail_are_reported_once(waitress):
    names = [*fail_in_views(waitress), fail_in_one(waitress, "fail_late", "")]
    wait_until(lambda: len(reports(waitress)) == len(names), "the reports", waitress)
    assert reports(waitress) == dict.fromkeys(names, 1)


@pytest.mark.parametrize("around", ["", "-around"])
def test_what_fails_is_reported_once(server, around):
    since = server.position()
    names = [*fail_in_views(server, around), *fail_elsewhere(server, around)]
    names += [fail_in_one(server, path, around) for path in LATE]
    wait_until(lambda: reports(server).keys() >= set(names), "the reports", server)
    server.settled(since)
    found = reports(server)
    assert {name: found[name] for name in names} == dict.fromkeys(names, 1)


def test_servers_report_nothing_else(server):
    known = OTHERS.get(server.name, ())
    names = [*VIEWS, *LATE, "websocket", "http", *CONSUMERS]
    others = [name for name in reports(server) if name.partition("-")[0] not in names]
    as_text = [name for name in others if "\nTraceback" in name]
    check(server, LATE_ERRORS, not as_text)
    assert set(others) - set(as_text) <= set(known)
