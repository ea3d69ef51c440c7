import pytest
from app import main
from pyramid_asgi_consumers.testing import TestApp, WebSocketDenied, WebSocketDisconnect


@pytest.fixture
def app():
    return main()


def log_in(testapp, name, password):
    form = testapp.get("/login").form
    form["name"], form["password"] = name, password
    return form.submit()


def test_who_is_not_logged_in_gets_neither_the_page_nor_the_websocket(app):
    testapp = TestApp(app)
    assert testapp.get("/").location == "http://localhost/login"
    with pytest.raises(WebSocketDenied):
        with testapp.websocket("/live"):
            pass


def test_a_wrong_password_does_not_log_in(app):
    testapp = TestApp(app)
    assert "no such name" in log_in(testapp, "ann", "banana").text
    assert "no such name" in log_in(testapp, "nobody", "apple").text
    testapp.get("/", status=303)


def test_each_knows_who_writes(app):
    ann, ben = TestApp(app), TestApp(app)
    log_in(ann, "ann", "apple").follow()
    log_in(ben, "ben", "banana").follow()
    with ann.websocket("/live") as one, ben.websocket("/live") as other:
        one.send("hello")
        assert other.receive_json() == {"author": "ann", "text": "hello"}


def test_a_logout_closes_the_websockets_of_the_user(app):
    ann = TestApp(app)
    page = log_in(ann, "ann", "apple").follow()
    with ann.websocket("/live") as websocket:
        page.forms[0].submit()
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive()
        assert closed.value.code == 4401
    ann.get("/", status=303)
