"""The server of a connection is recognised, once."""

from functools import partial
from importlib import import_module

import pytest

from pyramid_asgi_consumers import quirks


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_where_daphne_is_only_imported_nothing_is_done_for_it(kind):
    import_module("daphne.server")
    scope = {"type": kind, "asgi": {"version": "3.0"}, "root_path": "/app"}
    server = quirks.served_by(scope, partial(print))
    assert server is quirks.PLAIN
    assert server.root_path(scope) == "/app"
    assert not server.break_off()
    assert server.paced(print) is print
    assert server.websocket(None, print) == (None, print)


def test_what_serves_a_connection_is_looked_for_once():
    server = quirks.Server()
    assert quirks.served_by({quirks.SERVED_BY: server}, None) is server
