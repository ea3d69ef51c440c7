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


def test_what_was_said_is_on_the_page_of_who_comes_later(ann):
    with ann.websocket("/live") as websocket:
        websocket.send("hello")
        assert websocket.receive_json() == {"id": 1, "author": "ann", "text": "hello"}
    assert "ann: hello" in ann.get("/").text


def test_what_is_no_text_is_neither_stored_nor_said(ann):
    with ann.websocket("/live") as one, ann.websocket("/live") as other:
        one.send(b"no text")
        with pytest.raises(WebSocketDisconnect) as closed:
            one.receive()
        assert closed.value.code == 1003
        other.send("hello")
        assert other.receive_json()["id"] == 1
