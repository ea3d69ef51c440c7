"""What open pages hear."""

from contextlib import ExitStack

import pytest
from sqlalchemy.orm import Session

from chat import main, models
from pyramid_asgi_consumers.testing import (
    StreamEnded,
    StreamRefused,
    WebSocketDenied,
    WebSocketDisconnect,
)

KITCHEN = "/rooms/kitchen/live"


def hear(websocket, channel="room:kitchen"):
    """The next thing about a channel."""
    while (message := websocket.receive_json()).get("channel") != channel:
        pass
    return message


def heard(websocket, number):
    """So many of the texts that are said."""
    texts = []
    while len(texts) < number:
        if "data" in (message := hear(websocket)):
            texts.append(message["data"]["text"])
    return texts


def refusal(connection):
    """What is answered to who may not open this."""
    with pytest.raises((StreamRefused, WebSocketDenied)) as refused, ExitStack() as stack:
        stack.enter_context(connection)
    return refused.value.response


def expect_people(websocket, *expected):
    """Ask who is there, and whenever that changes once more, until it is these."""
    websocket.send_json({"who": True})
    people = None
    while people != [*expected]:
        message = websocket.receive_json()
        if "present" in message:
            people = sorted(member["title"] for member in message["present"])
        elif message.get("data") == "changed":
            websocket.send_json({"who": True})


def test_everybody_in_the_room_hears_what_is_said(ann, bob):
    with ann.websocket(KITCHEN) as one, bob.websocket(KITCHEN) as other:
        stored = bob.say("hello").json
        for websocket in (one, other):
            hear(websocket)
            assert hear(websocket)["data"] == stored


def test_a_page_hears_what_was_said_since_it_was_rendered(ann, bob):
    since = ann.since()
    bob.say("meanwhile")
    with ann.websocket(f"{KITCHEN}?since={since}") as websocket:
        bob.say("now")
        assert heard(websocket, 2) == ["meanwhile", "now"]


def test_a_page_that_was_offline_hears_each_message_once(ann, bob):
    with ann.websocket(f"{KITCHEN}?since={ann.since()}") as websocket:
        bob.say("one")
        hear(websocket)
        last = hear(websocket)["id"]
    bob.say("two")
    bob.say("three")
    with ann.websocket(f"{KITCHEN}?since={last}") as websocket:
        assert heard(websocket, 2) == ["two", "three"]


def test_a_page_of_a_server_that_is_no_more_hears_that_and_reads_the_rows(
    ann, bob, app_settings, engine, visit
):
    since = ann.since()
    bob.say("one")
    again = visit(main({}, dbengine=engine, **app_settings), "ann")
    with again.websocket(f"{KITCHEN}?since={since}") as websocket:
        assert "gap" not in hear(websocket)
        assert hear(websocket)["gap"] is None
    messages = again.get("/rooms/kitchen/messages").json["messages"]
    assert [message["text"] for message in messages] == ["one"]


def test_a_page_that_has_missed_too_much_hears_that(app_settings, engine, visit):
    settings = {**app_settings, "asgi.channels.history": "2"}
    ann = visit(main({}, dbengine=engine, **settings), "ann")
    since = ann.since()
    for text in "abc":
        ann.say(text)
    with ann.websocket(f"{KITCHEN}?since={since}") as websocket:
        hear(websocket)
        assert hear(websocket)["gap"] == 1
        assert heard(websocket, 2) == ["b", "c"]


def test_what_was_refused_is_not_heard(ann):
    with ann.websocket(KITCHEN) as websocket:
        ann.say("x" * 5000, status=400)
        ann.say("hello")
        assert heard(websocket, 1) == ["hello"]


def test_who_is_there_is_told_and_that_it_changes(ann, bob):
    with ann.websocket(KITCHEN) as websocket:
        hear(websocket, "people:kitchen")
        assert hear(websocket, "people:kitchen")["data"] == "changed"
        expect_people(websocket, "Ann")
        with bob.websocket(KITCHEN), bob.websocket(KITCHEN):
            assert hear(websocket, "people:kitchen")["data"] == "changed"
            expect_people(websocket, "Ann", "Bob")
            people = ann.get("/rooms/kitchen").html.find(id="people").find_all("li")
            assert [person.text for person in people] == ["AAnn (you)", "BBob"]
        assert hear(websocket, "people:kitchen")["data"] == "changed"
        expect_people(websocket, "Ann")


def test_what_is_read_is_not_unread_any_more_on_other_pages(ann, bob):
    first = bob.say("one").json["id"]
    with ann.stream("/unread") as stream, ann.websocket(KITCHEN) as websocket:
        assert stream.receive_json()["kitchen"] == 1
        last = bob.say("two").json["id"]
        assert stream.receive_json()["kitchen"] == 2
        websocket.send_json({"read": first})
        assert stream.receive_json()["kitchen"] == 1
        # Once more, which changes nothing, and more than there is.
        websocket.send_json({"read": first})
        websocket.send_json({"read": last + 10**30})
        assert stream.receive_json()["kitchen"] == 0
        bob.say("three")
        assert stream.receive_json()["kitchen"] == 1


@pytest.mark.parametrize("message", ['{"read": "all"}', "[]", '{"say": "hello"}', "x"])
def test_what_is_no_message_closes_the_socket(ann, message):
    with ann.websocket(KITCHEN) as websocket:
        websocket.send(message)
        with pytest.raises(WebSocketDisconnect) as closed:
            heard(websocket, 1)
    assert closed.value.code == (1007 if message == "x" else 1008)


def test_who_is_not_logged_in_hears_nothing(stranger):
    assert refusal(stranger.websocket(KITCHEN)).status_int == 403
    assert refusal(stranger.stream("/unread")).status_int == 403


def test_a_page_of_another_site_hears_nothing(ann):
    with ann.websocket(KITCHEN, origin="http://localhost"):
        pass
    assert refusal(ann.websocket(KITCHEN, origin="https://example.com")).status_int == 403


def test_who_is_put_out_hears_no_more(bob, eve):
    with bob.stream("/unread") as stream, bob.websocket(KITCHEN) as websocket:
        assert "kitchen" in stream.receive_json()
        eve.moderate("2", "out")
        assert "kitchen" not in stream.receive_json()
        websocket.send_json({"read": 1})
        with pytest.raises(WebSocketDisconnect) as closed:
            heard(websocket, 1)
    assert closed.value.code == 4403
    assert refusal(bob.websocket(KITCHEN)).status_int == 403


def test_who_is_put_out_is_out_though_nothing_happens(app_settings, engine, visit):
    app = main({}, dbengine=engine, **{**app_settings, "asgi.revalidate": "0.05"})
    ann, bob, eve = (visit(app, name) for name in ("ann", "bob", "eve"))
    with ann.websocket(KITCHEN) as anns, bob.websocket(KITCHEN) as bobs:
        eve.moderate("2", "out")
        with pytest.raises(WebSocketDisconnect) as closed:
            heard(bobs, 1)
        assert closed.value.code == 4403
        expect_people(anns, "Ann")


def test_who_is_deleted_is_out(app_settings, engine, visit):
    app = main({}, dbengine=engine, **{**app_settings, "asgi.revalidate": "0.05"})
    ann = visit(app, "ann")
    with ann.stream("/unread") as stream, ann.websocket(KITCHEN) as websocket:
        with Session(engine) as dbsession, dbsession.begin():
            dbsession.delete(dbsession.get(models.User, 1))
        with pytest.raises(WebSocketDisconnect) as closed:
            heard(websocket, 1)
        assert closed.value.code == 4403
        stream.receive_json()
        with pytest.raises(StreamEnded):
            stream.receive()


def test_who_logs_out_is_put_out_of_every_tab_of_every_browser(app, ann, bob, visit):
    elsewhere = visit(app, "ann")
    with (
        ann.websocket(KITCHEN) as websocket,
        elsewhere.websocket("/rooms/garden/live") as other,
        elsewhere.stream("/unread") as stream,
        bob.websocket(KITCHEN) as bobs,
    ):
        stream.receive_json()
        ann.submit("/")
        for each in (websocket, other):
            with pytest.raises(WebSocketDisconnect) as closed:
                heard(each, 1)
            assert (closed.value.code, closed.value.reason) == (4401, "logged out")
        with pytest.raises(StreamEnded):
            stream.receive()
        bob.say("hello")
        assert heard(bobs, 1) == ["hello"]
        expect_people(bobs, "Bob")
    elsewhere.get("/", headers={"Accept": "text/html"}, status=303)
