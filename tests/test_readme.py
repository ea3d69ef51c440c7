"""README.rst: its examples run, no name in them is missing, and what it says of errors is so."""

import builtins
import dis
import importlib
import re
import sys
import textwrap
from contextlib import contextmanager
from importlib.metadata import metadata
from pathlib import Path
from types import CodeType, ModuleType

import pytest
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError
from pyramid.httpexceptions import HTTPForbidden, HTTPNotFound
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from sqlalchemy.orm.exc import DetachedInstanceError
from transaction.interfaces import NoTransaction

from pyramid_asgi_consumers import InvalidMessage, SubscriptionOverflow
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.testing import TestApp, WebSocketDenied, WebSocketDisconnect
from tests.cookiecutter import conftest
from tests.support import clients
from tests.support.project import Message, Room, User, make_config, make_engine, texts
from tests.support.servers import running

HERE = Path(__file__).parent
README = (HERE.parent / "README.rst").read_text()

BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)
TITLE = re.compile(r"^(.+)\n-+$", re.MULTILINE)

#: The blocks of code in each section.
_, *_parts = TITLE.split(README)
SECTIONS = dict(zip(_parts[::2], _parts[1::2], strict=True))
BLOCKS = {
    (title, number): textwrap.dedent(block).rstrip() + "\n"
    for title, body in SECTIONS.items()
    for number, block in enumerate(BLOCK.findall(body))
}

#: Those that are saved as a module, and those that go into a conftest.py.
SAVED = {("A first example", 0): "app", ("A whole example", 0): "chat"}
FIXTURES = ("Testing", 2)


@pytest.fixture
def config(tmp_path):
    engine = make_engine(tmp_path / "test.db")
    config = make_config(engine)
    config.add_route("texts", "/texts")
    config.add_view(texts, route_name="texts", renderer="json")
    config.commit()
    yield config
    engine.dispose()


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """The directory of somebody who has saved the examples, and works there."""
    for block, name in SAVED.items():
        (tmp_path / f"{name}.py").write_text(BLOCKS[block])
    (tmp_path / "production.ini").write_text("[app:main]\nuse = call:app:main\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in SAVED.values():
        sys.modules.pop(name, None)


def run_block(title, number=0, **names):
    """Run a block of a section, where these names are known; return it as a module."""
    module = ModuleType("example")
    vars(module).update(names)
    exec(BLOCKS[title, number], vars(module))
    return module


def global_names(code):
    """The names that ``code``, and the functions in it, look up outside themselves."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
        elif isinstance(instruction.argval, CodeType):
            yield from global_names(instruction.argval)


@pytest.mark.parametrize(("title", "number"), BLOCKS)
def test_a_block_runs_and_knows_all_its_names(title, number, config, directory):
    given = {"config": config, "Message": Message, "Room": Room}
    if (title, number) in SAVED:
        module = importlib.import_module(SAVED[title, number])
    elif (title, number) == FIXTURES:
        module = run_block(title, number, **vars(conftest))
    else:
        module = run_block(title, number, **given)
    # What classes name is theirs, or already there.
    known = {*vars(module), *vars(builtins), *_class_names(module)}
    code = compile(BLOCKS[title, number], title, "exec")
    assert {*global_names(code)} <= known
    config.commit()


def _class_names(module):
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return {name for each in classes for name in (*vars(each), "__name__", "__qualname__")}


def test_the_extras_to_install_are_there():
    pages = README + (HERE.parent / "docs/moving.rst").read_text()
    named = {*re.findall(r"\[(\w+)\][\"']", pages)}
    named |= {*re.findall(r"``(\w+)``", SECTIONS["Installing"])}
    assert {"uvicorn", "daphne", "redis"} <= named
    assert named <= {*metadata("pyramid_asgi_consumers").get_all("Provides-Extra")}


def test_the_first_example_is_served_as_it_says(directory):
    environ = {"PYTHONPATH": str(directory)}
    with running("uvicorn-sansio", directory, app="app:app", environ=environ) as server:
        assert clients.get(server, "/").body == b"Hello"
        with clients.websocket(server, "/ws") as websocket:
            for message in ("hi", "", b"\x00\x01"):
                websocket.send(message)
                assert websocket.recv() == message


def test_the_first_test_passes(directory):
    run_block("Testing").test_page_and_websocket()


def test_the_event_stream_relays_what_is_published_and_resumes():
    config = Configurator(settings={"asgi.channels.history": "10"})
    config.include("pyramid_asgi_consumers")
    news = run_block("Event streams").news
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
        run_block("Testing", 1).test_a_reader_that_comes_back_misses_nothing(testapp)


@pytest.mark.parametrize(
    "name",
    [
        "test_who_is_in_a_room_gets_what_is_said_there",
        "test_who_is_not_logged_in_stays_outside",
    ],
)
def test_the_whole_example_passes_its_test(name, directory):
    module = run_block("A whole example", 1)
    with contextmanager(module.testapp.__wrapped__)() as testapp:
        vars(module)[name](testapp)


def test_the_whole_example_has_rooms_and_takes_text(directory):
    module = run_block("A whole example", 1)
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
    assert BLOCKS[FIXTURES] in (HERE / "cookiecutter" / "conftest.py").read_text()


@pytest.mark.parametrize("section", ["Guarded consumers", "ASGI consumers, mounts and lifespan"])
def test_a_guarded_consumer(section, config):
    run_block(section, config=config, Message=Message, Room=Room)
    testapp = TestApp(config.make_asgi_app())
    with pytest.raises(WebSocketDenied, match="403"):
        testapp.websocket("/rooms/blue").__enter__()
    testapp.post("/login", {"name": "ann"})
    with testapp.websocket("/rooms/blue") as websocket:
        websocket.send("hello")
        websocket.send(b"binary")
    assert testapp.get("/texts").json == ["hello"]


def test_a_log_out_closes_what_its_user_has_open(config):
    config.add_route("log_out", "/log-out")
    config.add_view(run_block("Who may stay").log_out, route_name="log_out")

    async def wait(websocket):
        await websocket.accept()
        await websocket.wait_closed()

    config.add_websocket("/rooms/{room}", wait, permission="speak", factory=Room)
    testapp = TestApp(config.make_asgi_app())
    testapp.post("/login", {"name": "ann"})
    with testapp.websocket("/rooms/blue") as websocket:
        testapp.post("/log-out")
        assert closing_code(websocket) == 4401
    with pytest.raises(WebSocketDenied, match="403"):
        testapp.websocket("/rooms/blue").__enter__()


def test_channels(config):
    def message(text):
        return Message(text=text, author="ann")

    example = run_block("Channels", Message=message)
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
    example = run_block("Channels", 1, Message=Message)
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
    run_block("ASGI consumers, mounts and lifespan", 1, config=config)

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
    table = SECTIONS["A function of a websocket"].partition("closing code")[2]
    codes = re.findall(r"^(\d+(?: \+ status)?)  ", table, re.MULTILINE)
    assert {*codes} == {row for row, _, _ in CLOSED} | {"1009", "1012", "4401"}


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
