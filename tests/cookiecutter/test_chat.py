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


def test_what_is_said_is_published_where_it_is_committed(committing_testapp, own_engine):
    with Session(own_engine) as session, session.begin():
        session.add(models.User(**ANNA))
    committing_testapp.post_json("/login", ANNA)
    with committing_testapp.websocket("/listen/a") as listener:
        with committing_testapp.websocket("/chat/a") as websocket:
            websocket.send("hello")
        assert listener.receive_json() == ["anna", "hello"]
    assert committing_testapp.get("/messages/a").json == [["anna", "hello"]]


def test_in_the_transaction_of_the_test_it_waits_for_a_commit(testapp, anna, app_request):
    testapp.post_json("/login", ANNA)
    with testapp.websocket("/listen/a") as listener:
        with testapp.websocket("/chat/a") as websocket:
            websocket.send("hello")
            assert websocket.receive() == "anna: hello"
        app_request.channels.publish_now("chat:a", "by the test")
        assert listener.receive_json() == "by the test"


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
