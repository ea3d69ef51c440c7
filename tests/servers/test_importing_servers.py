"""Servers that import the application that an ini describes."""

import signal
from functools import partial

import pytest

from tests.apps.pserveapp import write_ini
from tests.support import clients
from tests.support.pserve import in_thread
from tests.support.servers import DEADLINE, HOST, free_port, started, wait_until

APP_PY = """
from pyramid.paster import get_app, setup_logging

setup_logging({ini!r})
app = get_app({ini!r})
"""


IMPORTING = {
    "granian": "granian --interface asgi --host {host} --port {port} project:app",
    "gunicorn": (
        "gunicorn --worker-class asgi --no-control-socket --bind {host}:{port} project:app"
    ),
    "uvicorn-worker": (
        "gunicorn --worker-class uvicorn_worker.UvicornWorker --bind {host}:{port} project:app"
    ),
}


@pytest.mark.parametrize("name", IMPORTING)
def test_a_server_that_imports_the_application(name, tmp_path):
    ini = write_ini(tmp_path / "test.ini", gate=tmp_path / "gate")
    (tmp_path / "project.py").write_text(APP_PY.format(ini=str(ini)))
    port = free_port()
    command = IMPORTING[name].format(host=HOST, port=port).split()
    with started(name, command, port, tmp_path, {"PYTHONPATH": str(tmp_path)}) as server:
        with clients.websocket(server, "/ws") as websocket:
            websocket.send("hello")
            assert websocket.recv(DEADLINE) == "hello"
        with in_thread(partial(clients.get, server, "/slow")) as answers:
            wait_until(lambda: "pserveapp|slow began" in server.logged(), "the request", server)
            server.process.send_signal(signal.SIGTERM)
            (tmp_path / "gate").touch()
        assert answers[0].body == b"slow answer"
        assert server.ended() == 0
        assert "pserveapp|The context is left" in server.logged()
