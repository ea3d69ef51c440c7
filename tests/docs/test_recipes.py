"""The recipes: what each says is so."""

import asyncio
import contextlib
import importlib
import json
import subprocess
import sys

import pytest
from pyramid.config import Configurator

from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.testing import (
    StreamRefused,
    TestApp,
    WebSocketDenied,
    WebSocketDisconnect,
)
from tests.support.pages import run_block
from tests.support.project import Message, Room, User


def recipe(name, config=None):
    return run_block(f"recipes/{name}", config=config, Message=Message, Room=Room)


def logged_in(app, name="ann"):
    testapp = TestApp(app)
    testapp.post("/login", {"name": name})
    return testapp


def publishing(config, path="/publish"):
    """A view that publishes ``{"channel", "data"}``."""
    config.add_route(path, path)
    config.add_view(
        lambda request: request.channels.publish(**request.json_body),
        route_name=path,
        renderer="json",
    )


@pytest.fixture
def people(config):
    """The application that ``config`` makes, and both of its people."""

    def add(request):
        request.dbsession.add(User(name="ben"))
        return {}

    def make():
        config.add_route("add", "/add")
        config.add_view(add, route_name="add", renderer="json")
        app = config.make_asgi_app()
        TestApp(app).get("/add")
        return logged_in(app), logged_in(app, "ben")

    return make


def test_each_viewer_gets_a_fragment_of_their_own(config, people, directory):
    config.include("pyramid_jinja2")
    config.add_jinja2_search_path(str(directory))
    live = recipe("fragments").live
    config.add_websocket("/rooms/{room}/live", live, name="live", permission="speak", factory=Room)
    publishing(config)
    ann, ben = people()
    with ann.websocket("/rooms/a/live") as of_ann, ben.websocket("/rooms/a/live") as of_ben:
        ann.post_json("/publish", {"name": "room:a", "data": {"author": "ann", "text": "1 < 2"}})
        mine, theirs = of_ann.receive(), of_ben.receive()
    assert "ann: 1 &lt; 2" in mine and "ann: 1 &lt; 2" in theirs
    assert ("Delete" in mine, "Delete" in theirs) == (True, False)


def until(websocket, expected):
    """Receive until it is this."""
    received = iter(lambda: sorted(websocket.receive_json()), None)
    assert next(people for people in received if people == expected)


def test_who_is_there_is_told_when_it_changes(config, people):
    config.add_websocket(
        "/rooms/{room}/people", recipe("presence").people, permission="speak", factory=Room
    )
    ann, ben = people()
    with ann.websocket("/rooms/a/people") as of_ann:
        until(of_ann, ["ann"])
        with ben.websocket("/rooms/a/people") as of_ben:
            until(of_ben, ["ann", "ben"])
            until(of_ann, ["ann", "ben"])
        until(of_ann, ["ann"])


def test_a_notification_reaches_its_user_in_each_tab_and_nobody_else(config, people):
    config.set_channels_backend(MemoryBackend(history=10))
    module = recipe("notifications", config)
    config.add_event_stream(
        "/notifications",
        module.notifications,
        name="notifications",
        permission="view",
        factory=module.Members,
    )
    ann, ben = people()
    with pytest.raises(StreamRefused, match="403"):
        TestApp(ann.app).stream("/notifications").__enter__()
    with ann.websocket("/rooms/a") as room:
        room.send("hello")
    url = ann.get("/page").json["url"]
    # Between the page and its stream.
    ben.post("/messages/1/thanks")
    with ann.stream(url) as tab, ann.stream(url) as other, ben.stream("/notifications") as of_ben:
        expected = {"text": "ben thanks you"}
        assert tab.receive_json() == other.receive_json() == expected
        ann.post("/messages/1/thanks")
        assert tab.receive_json() == {"text": "ann thanks you"}
        with pytest.raises(TimeoutError):
            of_ben.receive(timeout=0.05)


def test_a_page_sees_the_progress_of_a_task(config, directory):
    config.set_channels_backend(MemoryBackend(history=10))
    reports = importlib.import_module("reports")
    config.include(reports)
    app = config.make_asgi_app()
    # In place of a worker, in this process.
    reports.tasks.registry = config.registry
    reports.tasks.conf.task_always_eager = True
    testapp = TestApp(app)
    with testapp.stream(testapp.post("/reports").json["url"]) as stream:
        seen = [stream.receive_json() for _ in range(4)]
    assert seen[:3] == [{"done": row, "of": 3} for row in (1, 2, 3)]
    assert seen[3]["url"].endswith(".pdf")


#: The project whose worker it is, and whose pages.
PROJECT_OF_REPORTS = """
from pyramid.config import Configurator


def main(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.include("reports")
        return config.make_asgi_app()
"""


@pytest.mark.redis
def test_a_page_sees_the_progress_of_a_task_of_a_worker(directory, redis_server):
    url = redis_server.url
    (directory / "project_of_reports.py").write_text(PROJECT_OF_REPORTS)
    settings = {"asgi.channels": url, "asgi.channels.history": "10"}
    lines = ["[app:main]", "use = call:project_of_reports:main"]
    lines += [f"{name} = {value}" for name, value in settings.items()]
    (directory / "production.ini").write_text("\n".join(lines))
    reports = importlib.import_module("reports")
    reports.tasks.conf.broker_url = url
    project = importlib.import_module("project_of_reports")
    command = ["celery", "-A", "reports", "-b", url, "worker", "-c", "1", "--without-mingle"]
    log = directory / "celery.log"
    with log.open("w") as output, TestApp(project.main({}, **settings)) as testapp:
        worker = subprocess.Popen([sys.executable, "-m", *command], stdout=output, stderr=output)
        try:
            with testapp.stream(testapp.post("/reports").json["url"]) as stream:
                seen = [stream.receive_json(timeout=60) for _ in range(4)]
        finally:
            worker.terminate()
            assert worker.wait(60) == 0, log.read_text()
    assert seen[:3] == [{"done": row, "of": 3} for row in (1, 2, 3)]
    assert seen[3]["url"].endswith(".pdf")


def test_a_worker_of_celery_has_the_registry_of_the_ini(directory):
    reports = importlib.import_module("reports")
    reports.worker_process_init.send(None)
    assert reports.tasks.registry.settings is not None


def test_an_answer_comes_word_by_word_and_is_stored(config):
    module = recipe("language_model")
    config.add_event_stream("/answer", module.answer, permission="view", factory=module.Members)
    testapp = logged_in(config.make_asgi_app())
    with testapp.stream("/answer?question=why%3F") as stream:
        words = []
        while (event := stream.receive()).event != "end":
            words.append(json.loads(event.data)["text"])
        assert words == ["You ", "have ", "asked: ", "why? "]
        assert testapp.get("/texts").json == ["".join(words)]


def test_a_reader_that_leaves_ends_the_call_of_the_model(config):
    module = recipe("language_model")
    ended = []

    async def ask_model(question):
        try:
            while True:
                yield question
                await asyncio.sleep(0)
        finally:
            ended.append(question)

    module.ask_model = ask_model
    config.add_event_stream("/answer", module.answer, permission="view", factory=module.Members)
    testapp = logged_in(config.make_asgi_app())
    with testapp.stream("/answer?question=why") as stream:
        stream.receive()
    assert ended == ["why"]
    assert testapp.get("/texts").json == []


@pytest.fixture
def phone():
    """Opens the socket of the app: ``phone(name)``; its ``testapp`` is there, too."""
    module = recipe("mobile")
    with Configurator(settings={"asgi.channels.history": "10"}) as config:
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(module.TokenPolicy())
        config.add_websocket("/app", module.app, permission="use")
        config.add_route("login", "/login")
        config.add_view(module.log_in, route_name="login", renderer="json")
        publishing(config)
        testapp = TestApp(config.make_asgi_app())

    def opened(name):
        token = testapp.post_json("/login", {"name": name}).json["token"]
        return testapp.websocket("/app", headers={"Authorization": f"Bearer {token}"})

    opened.testapp = testapp
    return opened


def test_an_app_hears_its_channels_says_something_and_goes_on_later(phone):
    with phone("ann") as socket:
        socket.send_json({})
        ids = {start["channel"]: start["id"] for start in (socket.receive_json() for _ in "12")}
        assert {*ids} == {"news", "user:ann"}
        socket.send_json({"say": "hello"})
        heard = socket.receive_json()
        assert heard["data"] == {"author": "ann", "text": "hello"}
    for name in ("news", "user:ann", "user:ben"):
        phone.testapp.post_json("/publish", {"name": name, "data": name})
    with phone("ann") as socket:
        socket.send_json({**ids, "news": heard["id"], "user:ben": heard["id"]})
        messages = [socket.receive_json() for _ in range(4)]
    assert sorted(message["data"] for message in messages if "data" in message) == [
        "news",
        "user:ann",
    ]


@pytest.mark.parametrize("first", ["text", ["news"]])
def test_an_app_that_speaks_otherwise_is_closed(first, phone):
    with phone("ann") as socket:
        socket.send_json(first)
        assert closing_code(socket) == 1008
    with phone("ann") as socket:
        socket.send_json({"news": {"no": "id"}})
        socket.send_json({"sing": "hello"})
        while "id" in (message := _next(socket)):
            pass
        assert message == {"closed": 1008}


def _next(socket):
    try:
        return socket.receive_json()
    except WebSocketDisconnect as closed:
        return {"closed": closed.code}


def closing_code(socket):
    with pytest.raises(WebSocketDisconnect) as closed:
        socket.receive()
    return closed.value.code


def test_a_token_that_is_none_opens_nothing(phone):
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic YTpi"}):
        with pytest.raises(WebSocketDenied, match="403"):
            phone.testapp.websocket("/app", headers=headers).__enter__()


def test_a_subscription_of_graphql_hears_a_channel(config):
    recipe("graphql", config)
    publishing(config)
    testapp = logged_in(config.make_asgi_app())
    asked = testapp.post_json("/graphql", {"query": "{ whoami }"})
    assert asked.json["data"] == {"whoami": "ann"}
    protocol = "graphql-transport-ws"
    with testapp.websocket("/graphql", subprotocols=[protocol]) as websocket:
        websocket.send_json({"type": "connection_init"})
        assert websocket.receive_json()["type"] == "connection_ack"
        query = 'subscription { said(room: "a") }'
        websocket.send_json({"id": "1", "type": "subscribe", "payload": {"query": query}})
        heard = None
        while heard is None:
            # Once it has subscribed.
            testapp.post_json("/publish", {"name": "room:a", "data": {"text": "hello"}})
            with contextlib.suppress(TimeoutError):
                heard = websocket.receive_json(timeout=0.1)
        assert heard["payload"] == {"data": {"said": "hello"}}
