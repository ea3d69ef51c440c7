import pytest
from tutorial import main

from pyramid_asgi_consumers.testing import TestApp, WebSocketDenied, WebSocketDisconnect

SETTINGS = {
    "sqlalchemy.url": "sqlite://",
    "tutorial.secret": "secret",
    "tutorial.users": "ann ben",
    "asgi.channels.history": "10",
}


@pytest.fixture
def app():
    app = main({}, **SETTINGS)
    yield app
    app.registry["dbengine"].dispose()


def logged_in(app, name, password=None):
    testapp = TestApp(app)
    form = testapp.get("/login").form
    form["name"], form["password"] = name, password or name
    form.submit()
    return testapp


@pytest.fixture
def ann(app):
    return logged_in(app, "ann")


@pytest.fixture
def ben(app):
    return logged_in(app, "ben")


def since(page):
    return page.html.find(id="chat")["data-since"]


def test_who_is_not_logged_in_is_sent_to_the_login(app):
    for testapp in (TestApp(app), logged_in(app, "ann", "no"), logged_in(app, "eve")):
        assert testapp.get("/", status=303).location == "http://localhost/login"
        with pytest.raises(WebSocketDenied):
            testapp.websocket("/live").__enter__()


def test_what_one_says_the_other_hears_and_the_next_page_shows(ann, ben):
    with ann.websocket("/live") as one, ben.websocket("/live") as other:
        one.send(since(ann.get("/")))
        other.send(since(ben.get("/")))
        # Where they begin.
        assert "data" not in one.receive_json() | other.receive_json()
        one.send("hello")
        said = {"id": 1, "author": "ann", "text": "hello"}
        assert one.receive_json()["data"] == other.receive_json()["data"] == said
    (item,) = ben.get("/").html.find_all("li")
    assert item.text == "ann hello"


def test_what_is_said_while_a_page_is_offline_comes_when_it_is_back(ann, ben):
    begin = since(ben.get("/"))
    with ann.websocket("/live") as websocket:
        websocket.send(begin)
        websocket.receive_json()
        websocket.send("hello")
        websocket.receive_json()
    with ben.websocket("/live") as back:
        back.send(begin)
        back.receive_json()
        assert back.receive_json()["data"]["text"] == "hello"


def test_a_logout_closes_the_websockets_of_the_user_alone(ann, ben):
    with ann.websocket("/live") as one, ben.websocket("/live") as other:
        ann.get("/").forms[0].submit()
        with pytest.raises(WebSocketDisconnect) as closed:
            one.receive()
        assert closed.value.code == 4401
        other.send(since(ben.get("/")))
        assert "id" in other.receive_json()


def test_who_says_too_much_is_put_out(ann):
    with ann.websocket("/live") as websocket:
        websocket.send("x" * 5000)
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive()
        assert closed.value.code == 1009
