"""What docs/moving.rst says of middleware and of the debug toolbar, under pserve."""

import re

import pytest

from tests.apps.movedapp import STATIC
from tests.support import clients
from tests.support.pserve import SERVERS, pserve
from tests.support.servers import DEADLINE, wait_until

pytestmark = pytest.mark.once


@pytest.fixture(scope="module", params=SERVERS)
def server(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    with pserve(request.param, directory, app="movedapp") as server:
        yield server


def test_whitenoise_serves_its_files_and_passes_the_rest_on(server):
    answer = clients.get(server, "/files/testing.ini")
    assert (answer.status, answer.body) == (200, (STATIC / "testing.ini").read_bytes())
    assert answer.headers["Content-Length"] == str(len(answer.body))
    unchanged = {"If-None-Match": answer.headers["ETag"]}
    assert clients.get(server, "/files/testing.ini", headers=unchanged).status == 304
    part = clients.get(server, "/files/testing.ini", headers={"Range": "bytes=2-4"})
    assert (part.status, part.body) == (206, answer.body[2:5])
    assert clients.get(server, "/files/none").status == 404
    assert b"A page" in clients.get(server, "/").body
    with clients.websocket(server, "/echo") as websocket:
        websocket.send("hello")
        assert websocket.recv(DEADLINE) == "hello"


def test_a_wsgi_application_is_mounted_where_a_composite_had_it(server):
    assert clients.get(server, "/old/page").body == b"/old has /page"
    assert clients.get(server, "/older").status == 404


def test_the_debug_toolbar_shows_a_request(server):
    page = clients.get(server, "/?shown=yes")
    button = re.search(rb'href="[^"]*(/_debug_toolbar/[0-9]+)"', page.body)
    toolbar = clients.get(server, button.group(1).decode())
    assert toolbar.status == 200
    assert b"HTTP Headers" in toolbar.body
    assert b"shown" in toolbar.body
    style = re.search(rb'href="[^"]*(/_debug_toolbar/static/[^"]*\.css)"', toolbar.body)
    assert clients.get(server, style.group(1).decode()).status == 200
    assert "broken proxy" not in server.logged()


def test_the_debug_toolbar_shows_an_error(server):
    since = server.position()
    assert clients.get(server, "/files/none").status == 404
    wait_until(lambda: "traceback url" in server.logged(since), "the toolbar's line", server)
    url = re.search(r"(/_debug_toolbar/[0-9]+/exception)", server.logged(since))
    assert b"HTTPNotFound" in clients.get(server, url.group(1)).body
