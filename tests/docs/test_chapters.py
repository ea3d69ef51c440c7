"""What README and the pages show does what they say, and what they say of errors is so."""

import importlib
import re
from configparser import ConfigParser
from contextlib import contextmanager

import pytest
from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.exceptions import ConfigurationConflictError
from pyramid.httpexceptions import HTTPForbidden, HTTPNotFound
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from sqlalchemy.orm.exc import DetachedInstanceError
from transaction.interfaces import NoTransaction

from pyramid_asgi_consumers import InvalidMessage, SubscriptionOverflow
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.testing import TestApp, WebSocketDenied, WebSocketDisconnect, serving
from tests.support import clients
from tests.support.pages import PAGES, PROJECT, blocks, run_block, text_of
from tests.support.project import Message, Room, User
from tests.support.servers import running


def test_the_extras_to_install_are_there():
    named = {name for page in PAGES for name in re.findall(r"\[(\w+)\][\"']", text_of(page))}
    others = text_of("README").partition("The other extras are")[2].partition(".")[0]
    named |= {*re.findall(r"``(\w+)``", others)}
    assert {"uvicorn", "daphne", "redis"} <= named
    setup = ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    assert named <= {*setup["options.extras_require"]}


def test_the_first_example_is_served_as_it_says(directory):
    environ = {"PYTHONPATH": str(directory)}
    with running("uvicorn-sansio", directory, app="app:app", environ=environ) as server:
        assert clients.get(server, "/").body == b"Hello"
        with clients.websocket(server, "/ws") as websocket:
            for message in ("hi", "", b"\x00\x01"):
                websocket.send(message)
                assert websocket.recv() == message


def test_the_first_test_passes(directory):
    run_block("testing").test_page_and_websocket()


def test_the_event_stream_relays_what_is_published_and_resumes():
    config = Configurator(settings={"asgi.channels.history": "10"})
    config.include("pyramid_asgi_consumers")
    news = run_block("streams").news
    config.add_event_stream("/news", news, permission=NO_PERMISSION_REQUIRED)
    config.add_route("publish", "/publish")
    config.add_view(
        lambda request: request.channels.publish("news", request.json_body),
        route_name="publish",
        renderer="json",
    )
    with TestApp(config.make_asgi_app()) as testapp:
        with testapp.stream("/news") as stream:
            testapp.post_json("/publish", "one")
            assert stream.receive_json()["data"] == "one"
            last = stream.last_event_id
        testapp.post_json("/publish", "two")
        with testapp.stream("/news", headers={"Last-Event-ID": last}) as stream:
            assert stream.receive_json()["data"] == "two"


def test_the_test_of_a_stream_passes():
    async def news(stream):
        async with stream.relay("news"):
            await stream.wait_closed()

    def publish(request):
        request.channels.publish("news", request.params["text"])
        return Response()

    with Configurator(settings={"asgi.channels.history": 10}) as config:
        config.include("pyramid_asgi_consumers")
        config.add_event_stream("/news", news)
        config.add_route("publish", "/publish")
        config.add_view(publish, route_name="publish")
        app = config.make_asgi_app()
    with TestApp(app) as testapp:
        run_block("testing", 1).test_a_reader_that_comes_back_misses_nothing(testapp)


@pytest.mark.parametrize(
    "name",
    [
        "test_who_is_in_a_room_gets_what_is_said_there",
        "test_who_is_not_logged_in_stays_outside",
    ],
)
def test_the_whole_example_passes_its_test(name, directory):
    module = run_block("quickstart", 1)
    with contextmanager(module.testapp.__wrapped__)() as testapp:
        vars(module)[name](testapp)


def test_the_whole_example_has_rooms_and_takes_text(directory):
    module = run_block("quickstart", 1)
    with contextmanager(module.testapp.__wrapped__)() as testapp:
        testapp.post("/login", {"name": "ann"})
        with pytest.raises(WebSocketDenied, match="404"):
            testapp.websocket("/rooms/none").__enter__()
        with testapp.websocket("/rooms/blue") as websocket:
            assert websocket.receive_json() == []
            websocket.send(b"binary")
            assert closing_code(websocket) == 1003


def test_the_cookiecutter_has_the_fixtures():
    # Its tests use them.
    conftest = PROJECT / "tests" / "cookiecutter" / "conftest.py"
    assert blocks("testing")[2].code in conftest.read_text()


@pytest.mark.parametrize(("page", "number"), [("handshakes", 0), ("consumers", 1)])
def test_a_guarded_consumer(page, number, config):
    run_block(page, number, config=config, Message=Message, Room=Room)
    testapp = TestApp(config.make_asgi_app())
    with pytest.raises(WebSocketDenied, match="403"):
        testapp.websocket("/rooms/blue").__enter__()
    testapp.post("/login", {"name": "ann"})
    with testapp.websocket("/rooms/blue") as websocket:
        websocket.send("hello")
        websocket.send(b"binary")
    assert testapp.get("/texts").json == ["hello"]


def test_channels(config):
    def message(text):
        return Message(text=text, author="ann")

    example = run_block("channels", Message=message)
    config.add_websocket("/room", example.room)
    config.add_route("message", "/message")
    config.add_view(example.add_message, route_name="message", renderer="json")
    testapp = TestApp(config.make_asgi_app())
    with testapp.websocket("/room") as websocket:
        testapp.post_json("/message", {"text": "hello"})
        assert websocket.receive_json() == {"text": "hello"}
    assert testapp.get("/texts").json == ["hello"]


def test_a_page_goes_on_from_what_it_shows(config):
    config.set_channels_backend(MemoryBackend(history=10))
    example = run_block("channels", 1, Message=Message)
    for name in "messages", "message":
        config.add_route(name, f"/{name}")
    config.add_view(example.messages, route_name="messages", renderer="json")
    config.add_websocket("/messages/after", example.messages_after)

    def add_message(request):
        row = Message(text=request.json_body["text"], author="ann")
        request.dbsession.add(row)
        request.dbsession.flush()
        request.channels.publish("room", [row.id, row.text])
        return {}

    config.add_view(add_message, route_name="message", renderer="json")
    testapp = TestApp(config.make_asgi_app())
    testapp.post_json("/message", {"text": "on the page"})
    page = testapp.get("/messages").json
    testapp.post_json("/message", {"text": "after it"})
    with testapp.websocket("/messages/after") as websocket:
        websocket.send_text(page["since"])
        shown = [*page["messages"], websocket.receive_json()]
    assert shown == [[1, "on the page"], [2, "after it"]]


def test_a_lifespan_and_a_mount(config):
    run_block("consumers", 2, config=config)

    def state(request):
        return Response(type(request.environ["asgi.scope"]["state"]["http_client"]).__name__)

    config.add_route("state", "/state")
    config.add_view(state, route_name="state")
    with TestApp(config.make_asgi_app()) as testapp:
        assert testapp.get("/state").text == "AsyncClient"
        assert testapp.get("/api/none", status=404).text == "Not Found"


# What it says of errors.


def closing_code(websocket):
    with pytest.raises(WebSocketDisconnect) as closed:
        websocket.receive()
    return closed.value.code


async def text(websocket):
    await websocket.receive_text()


async def as_json(websocket):
    await websocket.receive_json()


async def forbidden(websocket):
    await websocket.run_in_request(raising, HTTPForbidden())


def raising(request, error):
    raise error


def raises(error):
    async def func(websocket):
        raise error

    return func


CLOSED = [
    ("4000 + status", raises(HTTPNotFound()), 4404),
    ("4000 + status", forbidden, 4403),
    ("1003", text, 1003),
    ("1007", as_json, 1007),
    ("1008", raises(InvalidMessage("too fast")), 1008),
    ("1011", raises(ValueError("wrong")), 1011),
    ("1013", raises(SubscriptionOverflow(("room",), 1)), 1013),
]


@pytest.mark.parametrize(("row", "func", "code"), CLOSED)
def test_what_a_function_raises_closes_with_a_code(row, func, code, config):
    async def accepting(websocket):
        await websocket.accept()
        await func(websocket)

    config.add_websocket("/ws", accepting, permission=NO_PERMISSION_REQUIRED)
    with TestApp(config.make_asgi_app()).websocket("/ws") as websocket:
        websocket.send("no JSON" if func is as_json else b"binary")
        assert closing_code(websocket) == code


def test_the_table_has_these_codes_and_those_of_servers():
    table = text_of("security").partition("closing code")[2]
    codes = re.findall(r"^(\d+(?: \+ status)?)  ", table, re.MULTILINE)
    assert {*codes} == {row for row, _, _ in CLOSED} | {"1000", "1009", "1012", "4401"}


def user(request):
    return request.dbsession.get(User, "ann")


def query(websocket):
    # The connection that it was to have is given back by the close.
    with websocket.request.dbsession as session:
        session.get(User, "ann")


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda websocket: websocket.context.name, DetachedInstanceError),
        (query, NoTransaction),
        (lambda websocket: websocket.request.title, None),
    ],
)
def test_the_handshake_is_finished(read, error, config):
    def factory(request):
        found = user(request)
        request.title = found.name
        return found

    outcomes = []

    async def func(websocket):
        await websocket.accept()
        try:
            outcomes.append(read(websocket))
        except Exception as raised:
            outcomes.append(type(raised))

    config.add_websocket("/ws", func, factory=factory)
    with TestApp(config.make_asgi_app()).websocket("/ws"):
        pass
    assert outcomes == [error or "ann"]


def test_a_mapped_object_is_not_to_be_returned(config):
    async def func(websocket):
        await websocket.accept()
        found = await websocket.run_in_request(user)
        with pytest.raises(DetachedInstanceError):
            found.name  # noqa: B018
        await websocket.send("expired")

    config.add_websocket("/ws", func, permission=NO_PERMISSION_REQUIRED)
    with TestApp(config.make_asgi_app()).websocket("/ws") as websocket:
        assert websocket.receive() == "expired"


def test_the_name_of_a_page_s_route_is_taken(config):
    config.add_route("page", "/page")
    config.add_websocket("/ws", text, name="page")
    with pytest.raises(ConfigurationConflictError):
        config.commit()


def test_what_calls_write_into_the_session_stays_with_the_connection(config):
    def count(request):
        request.session["count"] = request.session.get("count", 0) + 1
        return request.session["count"]

    async def func(websocket):
        await websocket.accept()
        for _ in range(2):
            await websocket.send_json(await websocket.run_in_request(count))

    config.add_route("count", "/count")
    config.add_view(count, route_name="count", renderer="json")
    config.add_websocket("/ws", func, permission=NO_PERMISSION_REQUIRED)
    testapp = TestApp(config.make_asgi_app())
    with testapp.websocket("/ws") as websocket:
        assert [websocket.receive_json(), websocket.receive_json()] == [1, 2]
    assert testapp.get("/count").json == 1


def test_what_is_done_on_leaving_stands_around_the_relay(config):
    left = []

    async def func(websocket):
        await websocket.accept()
        try:
            async with websocket.relay("room", presence="ann"):
                await websocket.send_json(await websocket.channels.present("room"))
                await websocket.wait_closed()
        finally:
            left.append(await websocket.run_in_request(lambda request: user(request).name))

    config.add_websocket("/ws", func, permission=NO_PERMISSION_REQUIRED)
    testapp = TestApp(config.make_asgi_app())
    with testapp.websocket("/ws") as one, testapp.websocket("/ws") as other:
        # Oneself too, and each member once.
        assert one.receive_json() == other.receive_json() == ["ann"]
    assert left == ["ann", "ann"]


# The chapters' own examples.


def test_the_kinds_of_consumers_are_served(directory):
    module = importlib.import_module("kinds")
    with TestApp(module.app()) as testapp:
        assert testapp.get("/").text == "Hello"
        assert testapp.get("/hello/ann").text == "Hello, ann"
        with testapp.websocket("/echo") as websocket:
            websocket.send("hi")
            assert websocket.receive() == "hi"
        with testapp.stream("/clock") as stream:
            assert stream.receive().data.endswith("+00:00")


def test_a_visit_is_noted_at_its_begin_and_its_end(config):
    visit = run_block("websockets", 1, Message=Message, Room=Room).visit
    config.add_websocket("/rooms/{room}/visit", visit, permission="speak", factory=Room)
    testapp = TestApp(config.make_asgi_app())
    testapp.post("/login", {"name": "ann"})
    with testapp.websocket("/rooms/blue/visit"):
        pass
    assert testapp.get("/texts").json == ["is here", "has left"]


def test_logging_out_closes_what_is_open(config):
    async def inbox(websocket):
        await websocket.accept()
        await websocket.wait_closed()

    run_block("users", config=config)
    config.add_websocket("/inbox/{room}", inbox, permission="speak", factory=Room)
    config.add_route("token", "/token")
    config.add_view(lambda request: get_csrf_token(request), route_name="token", renderer="string")
    testapp = TestApp(config.make_asgi_app())
    testapp.post("/login", {"name": "ann"})
    with testapp.websocket("/inbox/blue") as websocket:
        testapp.post("/logout", status=400)
        testapp.post("/logout", headers={"X-CSRF-Token": testapp.get("/token").text})
        assert closing_code(websocket) == 4401
    with pytest.raises(WebSocketDenied, match="403"):
        testapp.websocket("/inbox/blue").__enter__()


def test_an_async_view_asks_another_site(config):
    with Configurator() as other:
        other.include("pyramid_asgi_consumers")
        other.add_route("rates", "/")
        other.add_view(lambda request: {"rate": 1.5}, route_name="rates", renderer="json")
        app = other.make_asgi_app()
    run_block("async_views", config=config)
    with serving(app) as server:
        config.add_settings({"rates.url": server.url})
        assert TestApp(config.make_asgi_app()).get("/rate").json == {"rate": 1.5}


def test_a_token_opens_a_websocket_until_it_expires():
    security = run_block("security")
    config = Configurator(settings={"asgi.origins": "https://app.example.com"})
    config.include("pyramid_asgi_consumers")
    config.set_security_policy(security.TokenPolicy())
    config.add_websocket("/inbox", security.inbox, permission="read")
    config.add_route("send", "/send")
    config.add_view(
        lambda request: request.channels.publish("user:ann", "hello"),
        route_name="send",
        renderer="json",
    )
    testapp = TestApp(config.make_asgi_app())

    def opened(token):
        return testapp.websocket("/inbox", headers={"Authorization": f"Bearer {token}"})

    with opened(security.make_token("ann")) as websocket:
        testapp.get("/send")
        assert websocket.receive_json() == "hello"
    for token in (security.make_token("ann", -1), "forged", ""):
        with pytest.raises(WebSocketDenied, match="403"):
            opened(token).__enter__()
    with pytest.raises(WebSocketDenied, match="403"):
        testapp.websocket("/inbox").__enter__()


def test_who_speaks_in_readme_is_heard_by_all(config):
    chat = run_block("README", 1, Message=Message, Room=Room).chat
    config.add_websocket("/rooms/{room}", chat, permission="speak", factory=Room)
    testapp = TestApp(config.make_asgi_app())
    testapp.post("/login", {"name": "ann"})
    with testapp.websocket("/rooms/blue") as one, testapp.websocket("/rooms/blue") as other:
        one.send("hello")
        expected = {"author": "ann", "text": "hello"}
        assert one.receive_json() == other.receive_json() == expected
    assert testapp.get("/texts").json == ["hello"]


def test_the_links_of_readme_lead_somewhere():
    links = re.findall(r"`[^`<]+<([^>]+)>`_", text_of("README"))
    local = {link for link in links if "://" not in link}
    assert len(local) > 10
    assert [link for link in local if not (PROJECT / link).exists()] == []


def test_the_settings_of_the_ini_are_taken():
    lines = blocks("settings", "ini")[0].code.splitlines()
    settings = dict(line.split(" = ") for line in lines if line.startswith("asgi."))
    config = Configurator(settings=settings)
    config.include("pyramid_asgi_consumers")
    assert config.make_asgi_app().limits.max_message == 65536
