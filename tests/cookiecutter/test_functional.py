import pytest

from .myproject import models
from .myproject.views.default import messages

ANNA = {"name": "anna", "password": "secret"}


@pytest.fixture
def anna(dbsession):
    user = models.User(**ANNA)
    dbsession.add(user)
    dbsession.add(models.Message(room="a", author="anna", text="hello"))
    dbsession.flush()
    return user


def test_a_login_sees_the_user_of_the_test(testapp, anna):
    assert testapp.post_json("/login", ANNA).json == {"name": "anna"}
    assert testapp.get("/messages/a").json == [["anna", "hello"]]


def test_a_wrong_password_is_refused(testapp, anna):
    testapp.post_json("/login", {**ANNA, "password": "?"}, status=401)
    assert testapp.get("/messages/a", status=403).json == {"error": "log in first"}


def test_nothing_of_one_test_is_there_in_the_next(dbsession):
    assert dbsession.query(models.User).count() == 0
    assert dbsession.query(models.Message).count() == 0


def test_a_view_alone(dummy_request, dummy_config, dbsession):
    dbsession.add(models.Message(room="a", author="anna", text="hello"))
    dummy_request.matchdict = {"room": "a"}
    assert messages(dummy_request) == [["anna", "hello"]]


def test_a_request_of_the_application(app_request):
    assert app_request.route_url("messages", room="a") == "http://example.com/messages/a"
