import pytest
from app import main
from pyramid_asgi_consumers.testing import TestApp


@pytest.fixture
def testapp():
    with TestApp(main()) as testapp:
        yield testapp


def test_the_page_knows_where_the_websocket_is(testapp):
    assert "ws://localhost/live" in testapp.get("/").text


def test_what_one_writes_both_read(testapp):
    with testapp.websocket("/live") as one, testapp.websocket("/live") as other:
        one.send("hello")
        assert one.receive_json() == other.receive_json() == {"text": "hello"}
