"""How many processes serve, as far as a command line tells."""

import shlex

import pytest

from pyramid_asgi_consumers.config.processes import workers
from tests.support import clients
from tests.support.servers import COMMANDS, running


@pytest.mark.parametrize(
    "command, variables, expected",
    [
        ("/venv/bin/uvicorn app:app", {}, 1),
        ("/venv/bin/uvicorn --workers 2 app:app", {}, 2),
        ("/venv/bin/uvicorn app:app --workers=4", {}, 4),
        ("/lib/hypercorn/__main__.py -w 3 app:app", {}, 3),
        ("/venv/bin/gunicorn -w3 -k asgi app:app", {}, 3),
        ("/venv/bin/gunicorn --workers 12 --worker-class asgi app:app", {}, 12),
        ("/venv/bin/gunicorn app:app", {"WEB_CONCURRENCY": "5"}, 5),
        ("/venv/bin/gunicorn app:app", {"WEB_CONCURRENCY": ""}, 1),
        ("/venv/bin/granian app:app", {"GRANIAN_WORKERS": "2"}, 2),
        ("/venv/bin/daphne -w 2 app:app", {}, 1),
        ("/venv/bin/pytest --workers 2", {"WEB_CONCURRENCY": "5"}, 1),
        ("/uvicorn-demo/bin/pserve app.ini", {"WEB_CONCURRENCY": "5"}, 1),
        ("/granian/app/__main__.py", {"WEB_CONCURRENCY": "5"}, 1),
        ("", {"WEB_CONCURRENCY": "5"}, 1),
    ],
)
def test_a_command_line_tells(command, variables, expected):
    assert workers(shlex.split(command), variables) == expected


WITH_WORKERS = [name for name in COMMANDS if name != "daphne" and name.count("-") == 0]


@pytest.mark.once
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", [*WITH_WORKERS, "uvicorn-websockets"])
def test_several_processes_with_channels_in_memory_are_warned_of(name, count, tmp_path):
    options = ["--workers", str(count)]
    with running(name, tmp_path, app="tests.apps.environapp:app", options=options) as server:
        assert clients.get(server, "/environ").status == 200
        log = server.logged()
        # The second may still be starting, and not hear that it is to stop.
        server.kill()
    assert ("asgi.channels is memory://" in log) == (count > 1)
