"""The application in the test clients of others, which tell it no lifespan or run it elsewhere."""

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager

import httpx
import pytest
from asgiref.testing import ApplicationCommunicator
from channels.testing import HttpCommunicator, WebsocketCommunicator
from django.conf import settings as django_settings
from pyramid.config import Configurator
from pyramid.response import Response
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from pyramid_asgi_consumers import testing
from tests.support.asgi import http_scope

django_settings.configured or django_settings.configure()


@pytest.fixture
def happened():
    return []


@pytest.fixture
def app(happened):
    """Its page and its websocket tell whether the context belongs to their event loop."""

    @asynccontextmanager
    async def context(registry):
        happened.append("enter")
        yield {"loop": asyncio.get_running_loop()}
        happened.append("leave")

    def is_own(scope):
        return str(scope["state"]["loop"] is asyncio.get_running_loop())

    async def page(request):
        return Response(is_own(request.environ["asgi.scope"]))

    async def websocket(websocket):
        await websocket.accept()
        await websocket.send(is_own(websocket.scope))

    def stateless(request):
        return Response(str("state" in request.environ["asgi.scope"]))

    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        # Wherever it is mounted.
        config.add_route("page", "/{where:.*}page")
        config.add_view(page, route_name="page")
        config.add_route("stateless", "/stateless")
        config.add_view(stateless, route_name="stateless")
        config.add_websocket("/{where:.*}ws", websocket)
        config.add_asgi_lifespan(context)
        return config.make_asgi_app()


@pytest.fixture
def warnings(caplog):
    """The warnings so far."""

    def texts():
        records = [record for record in caplog.records if record.levelname != "INFO"]
        return [record.getMessage()[:16] for record in records]

    return texts


def use(client, prefix=""):
    assert client.get(f"{prefix}/page").text == "True"
    with client.websocket_connect(f"{prefix}/ws") as websocket:
        assert websocket.receive_text() == "True"


def test_starlette_s_client_without_a_lifespan(app, happened, warnings):
    client = TestClient(app)
    for _ in range(2):
        use(client)
    # It has an event loop for each.
    assert happened == ["enter", "leave"] * 4
    assert warnings() == ["No lifespan came"]


def test_starlette_s_client_with_a_lifespan(app, happened, warnings):
    for _ in range(2):
        with TestClient(app) as client:
            use(client)
            use(client)
            assert happened == ["enter"]
        assert happened == ["enter", "leave"]
        happened.clear()
    assert warnings() == []


def test_starlette_s_client_with_a_lifespan_of_the_outer_application(app, happened, warnings):
    outer = Starlette(routes=[Mount("/mounted", app)])
    with TestClient(outer) as client:
        # What the outer application has under the same name is not the mounted one's.
        client.app_state["loop"] = None
        assert happened == []
        use(client, "/mounted")
        use(client, "/mounted")
        assert happened == ["enter"]
    assert happened == ["enter", "leave"]
    assert warnings() == ["No lifespan came"]


def test_httpx_s_transport(app, happened):
    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = await asyncio.gather(*(client.get("/page") for _ in range(3)))
        assert [answer.text for answer in answers] == ["True"] * 3
        assert happened == ["enter"]

    for _ in range(2):
        asyncio.run(ask())
        assert happened == ["enter", "leave"]
        happened.clear()


def test_the_communicators_of_asgiref_and_channels(app, happened):
    async def talk():
        bare = ApplicationCommunicator(app, http_scope("/page"))
        assert (await bare.receive_output(20))["status"] == 200
        assert (await bare.receive_output(20))["body"] == b"True"
        http = HttpCommunicator(app, "GET", "/page")
        assert (await http.get_response(20))["body"] == b"True"
        websocket = WebsocketCommunicator(app, "/ws")
        assert (await websocket.connect(20))[0]
        assert await websocket.receive_from(20) == "True"
        await websocket.wait(20)
        assert happened == ["enter"]

    asyncio.run(talk())
    assert happened == ["enter", "leave"]


def test_a_test_app_without_a_lifespan_enters_none_however_deep(app, happened, warnings):
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.add_asgi_app("/mounted", app)
        outer = config.make_asgi_app()
    testapp = testing.TestApp(outer)
    assert testapp.get("/mounted/stateless").text == "False"
    assert (happened, warnings()) == ([], [])
    with testing.TestApp(outer) as testapp:
        assert testapp.get("/mounted/page").text == "True"
        assert happened == ["enter"]
    assert (happened, warnings()) == (["enter", "leave"], [])


def test_all_of_this_where_daphne_is_merely_imported():
    # In a process of its own: it stays imported.
    script = "import sys, daphne.server, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    options = ["-q", "-p", "no:xdist", "-o", "addopts=", "-k", "not daphne"]
    command = [sys.executable, "-c", script, __file__, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert " passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0, done.stdout


def test_twisted_s_reactor_without_daphne_is_an_event_loop_as_any_other():
    script = """
import asyncio
import daphne.server
from asgiref.testing import ApplicationCommunicator
from twisted.internet import reactor
from tests.support.asgi import http_scope
from tests.apps.mountedapp import inner

async def ask():
    communicator = ApplicationCommunicator(inner, http_scope("/x"))
    try:
        print((await communicator.receive_output(20))["status"])
    finally:
        reactor.stop()

def begin():
    global task
    task = asyncio.ensure_future(ask())

reactor.callLater(0, begin)
reactor.run()
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "200\n", done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("No lifespan came before the first connection") == 1
