"""What each server lets a view know, and answer."""

import pytest

from tests.support import clients
from tests.support.servers import HOST

pytestmark = pytest.mark.once

APP = "tests.apps.environapp:app"


def sent(server, head):
    """The answer to ``head`` as it stands, which http.client would not send."""
    with clients.raw(server) as connection:
        connection.sendall(head + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return clients.read_until(connection, b"\r\n\r\n") + connection.makefile("rb").read()


def test_the_environ_tells_what_other_wsgi_servers_tell(server):
    environ = clients.get(server, "/environ?a=%20b&c=%C3%A9").json
    assert environ["REQUEST_URI"] == environ["RAW_URI"] == "/environ?a=%20b&c=%C3%A9"
    assert environ["SERVER_SOFTWARE"] == "pyramid_asgi_consumers"
    assert environ["REMOTE_ADDR"] == environ["REMOTE_HOST"] == HOST


def test_the_target_is_told_as_it_was_sent(server):
    assert b"no page GET /no%2C" not in sent(server, b"GET /no%2Cpage%20here HTTP/1.1")
    environ = clients.get(server, "/%65nviron?").json
    assert environ["PATH_INFO"] == "/environ"
    assert environ["RAW_URI"] == "/%65nviron"


@pytest.mark.parametrize("path", ["/%82%AC", "/names/%82%AC", "/%C3%A9/%FF"])
def test_a_path_that_is_not_utf8_is_the_project_s_to_answer(server, path):
    answer = clients.get(server, path)
    assert (answer.status, answer.whole) == (400, True)
    expected = {"%82%AC": b"\x82\xac", "%C3%A9/%FF": b"\xc3\xa9/\xff"}
    for escaped, raw in expected.items():
        path = path.replace(escaped, raw.decode("latin-1"))
    assert answer.body == b"not text: " + path.encode("latin-1")
    assert answer.headers["X-Path"].encode("latin-1", "replace") == path.encode("latin-1")


def test_a_replacement_character_that_was_sent_is_text(server):
    assert clients.get(server, "/names/%EF%BF%BD").body == b"a consumer"


def test_options_of_the_server_itself_reach_the_application(server):
    answer = sent(server, b"OPTIONS * HTTP/1.1")
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"no page OPTIONS *" in answer


def test_a_file_that_can_tell_its_size_gets_its_content_length(server):
    answer = clients.get(server, "/file")
    assert (answer.headers["Content-Length"], len(answer.body)) == ("300000", 300_000)


@pytest.mark.parametrize("status", [299, 418, 599, 600, 799])
def test_a_status_is_sent_where_the_server_can(server, status):
    answer = clients.get(server, f"/status/{status}")
    if server.name.startswith("uvicorn") and status > 599:
        # Uvicorn 0.54 knows no such status, and breaks the connection off.
        assert (answer.status, answer.whole) == (None, False)
    else:
        assert (answer.status, answer.whole) == (status, True)
