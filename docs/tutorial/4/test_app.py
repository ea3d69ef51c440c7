import re

import pytest
from app import main
from pyramid_asgi_consumers.testing import TestApp, WebSocketDisconnect


@pytest.fixture
def app():
    app = main(**{"sqlalchemy.url": "sqlite://"})
    yield app
    app.registry["dbengine"].dispose()


@pytest.fixture
def ann(app):
    testapp = TestApp(app)
    form = testapp.get("/login").form
    form["name"], form["password"] = "ann", "apple"
    form.submit()
    return testapp


def position(page):
    return re.search('since = "([^"]+)"', page.text)[1]


def test_what_is_said_while_a_page_is_offline_comes_when_it_is_back(ann):
    page = ann.get("/")
    with ann.websocket("/live") as websocket:
        websocket.send(position(page))
        # Where it begins, then what is said.
        assert "data" not in websocket.receive_json()
        websocket.send("one")
        heard = websocket.receive_json()
        websocket.send("two")
        websocket.receive_json()
    with ann.websocket("/live") as back:
        back.send(heard["id"])
        assert back.receive_json()["id"] == heard["id"]
        assert back.receive_json()["data"]["text"] == "two"


def test_who_says_too_much_is_put_out(ann):
    with ann.websocket("/live") as websocket:
        websocket.send("x" * 5000)
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive()
        assert closed.value.code == 1009
