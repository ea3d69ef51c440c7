"""What would happen on the servers without ``quirks.py``: each ends a server, so it has its own."""

import pytest

from pyramid_asgi_consumers import quirks
from tests import clients
from tests.servers import running, wait_until

WSGI_CRASH = "/crash-late?message=late"
CONSUMER_CRASH = "/consumer/crash-late?late"


@pytest.mark.parametrize("path", [WSGI_CRASH, CONSUMER_CRASH], ids=["view", "consumer"])
def test_daphne_goes_on_after_a_late_crash(path, tmp_path):
    with running("daphne", tmp_path) as server:
        assert not clients.get(server, path).whole
        # The server itself answers this, when it looks after its applications.
        answer = clients.get(server, "/bare/crash")
        assert (answer.status, answer.whole) == (500, True)


def test_daphne_by_itself_stops_looking_after_its_applications(tmp_path):
    options = ["--verbosity", "2"]
    with running("daphne", tmp_path, options=options) as server, clients.raw(server) as connection:
        connection.sendall(b"GET /bare/crash-late HTTP/1.1\r\nHost: localhost\r\n\r\n")
        clients.read_until(connection, clients.FILLER[-16:])
        # The exception ends the timed call that would have set the next one.
        error = "ValueError: HTTP response has already been started"
        wait_until(lambda: error in server.logged(), "what ends it", server)
        assert "in application_checker" in server.logged()


def test_granian_by_itself_dies_of_a_denial_that_repeats_a_header(tmp_path):
    with running("granian", tmp_path) as server:
        assert clients.handshake_status(server, "/bare/403?vary=a&vary=b") is None
        wait_until(lambda: "Unexpected exit from worker-1" in server.logged(), "its end", server)


async def test_daphne_refuses_a_line_break_in_a_header_of_accept():
    message = {"type": "websocket.accept", "headers": [(b"x-kind", b"a\r\nx-other: b")]}
    with pytest.raises(ValueError, match="The header b'x-kind' has a line break"):
        await quirks._daphne_websocket_send(None, None, message)
