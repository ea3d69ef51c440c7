"""README.rst's examples, in a project with users, transactions and a database."""

import textwrap
from itertools import takewhile
from pathlib import Path
from types import ModuleType

import pytest

from pyramid_asgi_consumers.testing import TestApp, WebSocketDenied
from tests.project import Message, Room, make_config, make_engine, texts

README = (Path(__file__).parent.parent / "README.rst").read_text()


@pytest.fixture
def config(tmp_path):
    engine = make_engine(tmp_path / "test.db")
    config = make_config(engine)
    config.add_route("texts", "/texts")
    config.add_view(texts, route_name="texts", renderer="json")
    config.commit()
    yield config
    engine.dispose()


def run_example(section, **names):
    """Run the first block of code in a section; return it as a module."""
    text = README.partition(f"\n{section}\n---")[2].partition("code-block:: python\n")[2]
    lines = takewhile(lambda line: not line or line.startswith("    "), text.splitlines())
    module = ModuleType("example")
    vars(module).update(names)
    exec(textwrap.dedent("\n".join(lines)), vars(module))
    return module


def test_guarded_consumers(config):
    run_example("Guarded consumers", config=config, Message=Message, Room=Room)
    testapp = TestApp(config.make_asgi_app())
    with pytest.raises(WebSocketDenied) as denied:
        testapp.websocket("/rooms/blue").__enter__()
    assert denied.value.response.status_int == 403
    testapp.post("/login", {"name": "ann"})
    with testapp.websocket("/rooms/blue") as websocket:
        websocket.send("hello")
    assert testapp.get("/texts").json == ["hello"]


def test_channels(config):
    def message(text):
        return Message(text=text, author="ann")

    example = run_example("Channels", Message=message)
    config.add_websocket("/room", example.room)
    config.add_route("message", "/message")
    config.add_view(example.add_message, route_name="message", renderer="json")
    testapp = TestApp(config.make_asgi_app())
    with testapp.websocket("/room") as websocket:
        testapp.post_json("/message", {"text": "hello"})
        assert websocket.receive_json() == {"text": "hello"}
    assert testapp.get("/texts").json == ["hello"]
