"""What a websocket's client offers, in one header and in two, on every ASGI server."""

import json

import pytest

from tests.support import clients
from tests.support.servers import TRACEBACK

pytestmark = pytest.mark.once

APP = "tests.apps.offeringapp:app"


@pytest.mark.parametrize(
    ("first", "second", "chosen"),
    [
        (["chat", "token.ann"], None, "chat"),
        (["chat", "token.ann"], None, "token.ann"),
        (["chat", "other"], "token.ann", "other"),
    ],
)
def test_all_that_a_client_offers_is_known(server, first, second, chosen):
    since = server.position()
    # In a header of its own, after the client's.
    more = {"Sec-WebSocket-Protocol": second} if second else {}
    with clients.websocket(
        server, f"/chat?{chosen}", subprotocols=first, additional_headers=more
    ) as websocket:
        told = json.loads(websocket.recv(clients.DEADLINE))
        assert websocket.subprotocol == chosen
        assert clients.closed(websocket).code == 1000
    assert told["user"] == "ann"
    assert told["offered"] == [*first, *([second] if second else [])]
    assert (told["upgrade"], told["version"]) == (["websocket", "Upgrade"], "13")
    assert TRACEBACK not in server.logged(since)


def test_a_client_without_the_token_is_refused(server):
    assert clients.denial(server, "/chat?chat", subprotocols=["chat"]).status_code == 403
