"""What the project has got since it has moved."""

from contextlib import ExitStack

import pytest
from sqlalchemy.orm import Session

from pyramid_asgi_consumers.testing import TestApp, WebSocketDenied

from .myproject import models

ANNA = {"name": "anna", "password": "secret"}


@pytest.fixture
def anna(dbsession):
    user = models.User(**ANNA)
    dbsession.add(user)
    dbsession.flush()
    return user


def test_a_websocket_is_logged_in_by_the_login(testapp, anna, dbsession):
    testapp.post_json("/login", ANNA)
    with testapp.websocket("/chat/a") as websocket:
        websocket.send("hello")
        assert websocket.receive() == "anna: hello"
        assert testapp.get("/messages/a").json == [["anna", "hello"]]
        websocket.send("bye")
        assert websocket.receive() == "anna: bye"
    assert dbsession.query(models.Message).count() == 2


def test_without_it_the_websocket_is_denied_with_the_page_of_the_project(testapp):
    with pytest.raises(WebSocketDenied) as denied, ExitStack() as stack:
        stack.enter_context(testapp.websocket("/chat/a"))
    assert denied.value.response.status_int == 403
    assert denied.value.response.json == {"error": "log in first"}


def test_nothing_of_one_test_is_there_in_the_next(dbsession):
    assert dbsession.query(models.User).count() == 0
    assert dbsession.query(models.Message).count() == 0


def test_the_url_of_the_websocket(app_request):
    assert app_request.websocket_url("chat", room="a") == "ws://example.com/chat/a"


@pytest.fixture
def stored_anna(dbengine):
    with Session(dbengine) as session:
        session.add(models.User(**ANNA))
        session.commit()
    yield
    with Session(dbengine) as session:
        session.query(models.User).delete()
        session.query(models.Message).delete()
        session.commit()


def test_without_the_hooks_each_request_and_each_message_is_a_transaction(app, stored_anna):
    testapp = TestApp(app)
    testapp.post_json("/login", ANNA)
    with testapp.websocket("/chat/a") as websocket:
        websocket.send("hello")
        assert websocket.receive() == "anna: hello"
        assert testapp.get("/messages/a").json == [["anna", "hello"]]
