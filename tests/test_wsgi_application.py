"""The ASGI application where somebody takes it for a WSGI application."""

import asyncio
import copy
import inspect
import subprocess
import sys

import pytest
from asgiref.sync import iscoroutinefunction
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from pyramid_asgi_consumers.testing import TestApp
from tests.apps.pserveapp import write_ini
from tests.support import clients
from tests.support.asgi import body_of, http_scope, run
from tests.support.servers import DEADLINE, HOST, PROJECT, free_port, started, wait_until

WARNING = "Called as a WSGI application: pages are answered, consumers are not reached"


def home(request):
    return Response("home")


@pytest.fixture
def app():
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_route("home", "/")
        config.add_view(home, route_name="home")
        return config.make_asgi_app()


def test_it_answers_its_pages_and_warns_once(app, caplog):
    for _ in range(2):
        response = Request.blank("/").get_response(app)
        assert (response.status_int, response.text) == (200, "home")
    (message,) = caplog.messages
    assert message.startswith(WARNING)


def test_it_is_called_with_keywords_too(app):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope=http_scope("/"), receive=None, send=send))
    assert body_of(sent) == b"home"


@pytest.mark.parametrize("look", [inspect.iscoroutinefunction, iscoroutinefunction])
def test_servers_find_a_coroutine_function(app, look):
    assert look(app.__call__)
    assert look(copy.copy(app).__call__)


async def test_a_copy_does_not_call_the_original(app):
    copied = copy.copy(app)
    copied.bridge = copy.copy(app.bridge)
    copied.bridge.wsgi_application = Response("the copy's")
    assert body_of(await run(copied, http_scope("/"))) == b"the copy's"
    assert body_of(await run(copied.__call__, http_scope("/"))) == b"the copy's"
    assert body_of(await run(app, http_scope("/"))) == b"home"


def test_what_is_neither_a_scope_nor_an_environ_is_said_to_be_so(app, caplog):
    with pytest.raises(
        TypeError, match="given main, which makes an application, .*--interface asgi"
    ):
        app(None, None)
    assert "write an app.py" in caplog.text


def test_the_router_s_attributes_are_reachable(app):
    router = app.wsgi_app
    assert app.invoke_request == router.invoke_request
    assert app.root_factory is router.root_factory
    assert app.registry is router.registry
    with app.request_context(Request.blank("/").environ) as request:
        assert app.invoke_request(request).text == "home"
    assert not hasattr(app, "nothing")
    assert not hasattr(app, "__wrapped__")
    # As a copy is while it is made.
    assert not hasattr(object.__new__(type(app)), "root_factory")


def test_what_is_wrapped_in_middleware_is_reachable(config):
    class Middleware:
        def __init__(self, app):
            self.app = app

        def __call__(self, environ, start_response):
            return self.app(environ, start_response)

    wrapped = config.make_wsgi_app()
    testapp = TestApp(config.make_asgi_app(Middleware(wrapped)))
    assert testapp.app.app is wrapped
    assert testapp.get("/", status=404).status_int == 404


def test_a_scope_without_a_lifespan_says_why_it_has_no_state(app, config):
    heard = []

    async def consumer(scope, receive, send):
        for key in ("state", "nothing"):
            with pytest.raises(KeyError) as error:
                scope[key]
            heard.append(str(error.value))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    config.add_asgi_consumer("/x", "http", consumer)
    TestApp(config.make_asgi_app()).get("/x")
    assert "no lifespan has run" in heard[0]
    assert heard[1] == "'nothing'"


# Over real servers and commands.


@pytest.fixture
def project(tmp_path):
    write_ini(tmp_path / "test.ini", gate=tmp_path / "gate")
    (tmp_path / "project.py").write_text(
        f"from pyramid.paster import get_app\napp = get_app({str(tmp_path / 'test.ini')!r})\n"
    )
    return tmp_path


WSGI_SERVERS = {
    "waitress": "waitress --listen {host}:{port} project:app",
    "gunicorn": "gunicorn --bind {host}:{port} project:app",
}


@pytest.mark.parametrize("name", WSGI_SERVERS)
def test_a_wsgi_server_serves_the_pages(name, project):
    port = free_port()
    command = WSGI_SERVERS[name].format(host=HOST, port=port).split()
    # Gunicorn imports pkg_resources, which warns.
    environ = {"PYTHONPATH": str(project), "PYTHONWARNINGS": "ignore"}
    with started(name, command, port, project, environ) as server:
        assert clients.get(server, "/").body == b"The first page"
        log = server.logged()
    assert log.count("pages are answered, consumers are not reached") == 1


def test_waitress_left_in_the_ini_serves_the_pages(project):
    port = free_port()
    ini = project / "test.ini"
    text = ini.read_text().replace("egg:pyramid_asgi_consumers#uvicorn", "egg:waitress#main")
    ini.write_text(text.replace("[server:main]", f"[server:main]\nlisten = {HOST}:{port}"))
    command = ["pyramid.scripts.pserve", str(ini)]
    with started("waitress", command, port, project, {"PYTHONWARNINGS": "ignore"}) as server:
        assert clients.get(server, "/").body == b"The first page"


def test_prequest_shows_a_page(project):
    command = [sys.executable, "-W", "ignore", "-m", "pyramid.scripts.prequest"]
    done = subprocess.run(
        [*command, str(project / "test.ini"), "/"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "The first page")


def test_uvicorn_that_is_given_main_says_what_to_do(project):
    port = free_port()
    (project / "project.py").write_text("from tests.apps.pserveapp import main\n")
    command = f"uvicorn --host {HOST} --port {port} project:main".split()
    environ = {"PYTHONPATH": f"{project}:{PROJECT}"}

    def answers(server):
        return clients.get(server, "/").status == 500

    with started("uvicorn", command, port, project, environ, answers=answers) as server:
        wait_until(lambda: "write an app.py" in server.logged(), "the reason", server)


def test_granian_that_does_not_speak_asgi_says_what_to_do(project):
    port = free_port()
    command = f"granian --host {HOST} --port {port} project:app".split()

    def answers(server):
        return clients.get(server, "/").status == 500

    environ = {"PYTHONPATH": str(project)}
    with started("granian", command, port, project, environ, answers=answers) as server:
        wait_until(lambda: "--interface asgi" in server.logged(), "the reason", server)
