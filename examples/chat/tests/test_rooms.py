"""Pages, and what is said by them."""

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from chat import main, models
from chat.views import rooms

PNG = b"\x89PNG\r\n\x1a\n and more"


def unread(user):
    """By room the numbers that the page of rooms shows."""
    badges = user.get("/").html.find_all(attrs={"data-unread": True})
    return {
        badge["data-unread"]: int(badge.find(class_="count").text)
        for badge in badges
        if not badge.has_attr("hidden")
    }


def count(engine, model=models.Message):
    with Session(engine) as dbsession:
        return dbsession.scalar(select(func.count()).select_from(model))


def said(user, page="/rooms/kitchen"):
    texts = user.get(page).html.find(id="messages").find_all(class_="text")
    return [text.text for text in texts]


def test_the_rooms_are_listed_with_what_is_unread(ann, bob):
    assert unread(bob) == {}
    ann.say("one")
    ann.say("two")
    ann.say("three", room="garden")
    assert unread(bob) == {"kitchen": 2, "garden": 1}
    assert unread(ann) == {}


def test_what_is_said_is_on_the_page(ann, bob):
    ann.say("  hello  ")
    bob.say("<b>hi</b>")
    assert said(ann) == ["hello", "<b>hi</b>"]


def test_a_form_without_script_says_and_shows_it(ann):
    answer = ann.submit("/rooms/kitchen", text="hello")
    assert answer.status_int == 303
    assert said(ann, answer.location) == ["hello"]


def test_the_script_gets_what_was_stored(ann):
    answer = ann.say("hello", key="a" * 32).json
    stored = {"id": 1, "key": "a" * 32, "author": 1, "title": "Ann", "text": "hello"}
    assert stored.items() <= answer.items()
    assert answer["picture"] is None
    assert ann.get("/rooms/kitchen/messages").json == {"messages": [answer]}


def test_what_is_sent_twice_is_one_message(ann, engine):
    first = ann.say("hello", key="a" * 32).json
    assert ann.say("hello", key="a" * 32).json == first
    assert count(engine) == 1


def test_what_is_sent_twice_at_once_is_one_message(own_engine, app_settings, visit):
    """The other request stores it when this one has looked, and not stored it yet."""
    app = main({}, dbengine=own_engine, **app_settings)
    ann = visit(app, "ann")
    attempts = []

    @event.listens_for(app.registry["dbsession_factory"], "before_flush")
    def store(dbsession, context, instances):
        attempts.append(dbsession)
        with Session(own_engine) as other, other.begin():
            other.add(models.Message(room_id=1, author_id=1, key="a" * 32, text="hello"))

    assert ann.say("hello", key="a" * 32).json["id"] == 1
    assert count(own_engine) == len(attempts) == 1


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"key": "a" * 32, "text": " \n"}, "The message is empty."),
        ({"key": "a" * 32, "text": "x" * 4001}, "A message has 4000 characters at most."),
        ({"key": "a", "text": "hello"}, "The form lacks the key of its message."),
        ({"text": "hello"}, "The form lacks the key of its message."),
    ],
)
def test_what_cannot_be_a_message_is_refused(ann, engine, fields, why):
    answer = ann.post_as_script("/rooms/kitchen/messages", fields, status=400)
    assert answer.json == {"message": why}
    assert count(engine) == 0


def test_earlier_messages_have_their_page(ann, monkeypatch):
    monkeypatch.setattr(rooms, "PAGE", 5)
    for number in range(8):
        ann.say(str(number))
    page = ann.get("/rooms/kitchen")
    assert said(ann) == [str(number) for number in range(3, 8)]
    earlier = page.click("Earlier messages")
    assert said(ann, earlier.request.path_qs) == [str(number) for number in range(3)]
    assert "composer" not in earlier.forms
    assert said(ann, earlier.click("Newest messages").request.path)[-1] == "7"
    for nonsense in "x", "-1", "9" * 30:
        assert said(ann, f"/rooms/kitchen?before={nonsense}")[-1] == "7"


def test_there_are_no_other_rooms(ann):
    answer = ann.get("/rooms/cellar", headers={"Accept": "text/html"}, status=404)
    assert "no such room" in answer.html.main.text
    ann.get("/nothing", status=404)


def test_a_picture_is_shown_to_who_may_be_in_its_room(ann, bob, stranger, engine):
    message = ann.say(upload_files=[("picture", "me.exe", PNG)]).json
    assert said(bob) == [""]
    page = bob.get("/rooms/kitchen").html
    assert page.find(id="messages").img["src"] == message["picture"] == "/pictures/1"
    answer = bob.get(message["picture"])
    assert (answer.content_type, answer.body) == ("image/png", PNG)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "private" in answer.headers["Cache-Control"]
    stranger.get(message["picture"], status=403)
    bob.get("/pictures/2", status=404)


@pytest.mark.parametrize(
    "data", [b"\xff\xd8\xff", b"GIF89a", b"RIFF\x00\n\x00\x00WEBP", b"\x89PNG\r\n\x1a\n"]
)
def test_pictures_are_of_these_formats(ann, data):
    message = ann.say("look", upload_files=[("picture", "picture", data)]).json
    assert ann.get(message["picture"]).body == data


@pytest.mark.parametrize("data", [b"", b"<svg>", b"<html>GIF89a", b"%PDF"])
def test_what_is_no_picture_is_refused(ann, engine, data):
    ann.say("look", upload_files=[("picture", "picture.png", data)], status=415)
    assert count(engine) == count(engine, models.Picture) == 0


def test_a_file_is_no_text(ann):
    files = [("text", "text", b"hello"), ("key", "key", b"a" * 32)]
    answer = ann.post_as_script("/rooms/kitchen/messages", {}, upload_files=files, status=400)
    assert "key" in answer.json["message"]


def test_a_picture_that_is_too_large_is_refused(ann, engine):
    data = PNG + bytes(2_000_000)
    answer = ann.say("look", upload_files=[("picture", "picture.png", data)], status=413)
    assert "2 MB" in answer.json["message"]
    ann.say("look", upload_files=[("picture", "x", PNG + bytes(3_000_000))], status=413)
    assert count(engine) == 0


def test_who_was_put_out_stays_out(ann, bob, eve):
    picture = ann.say(upload_files=[("picture", "picture.png", PNG)]).json["picture"]
    page = eve.get("/rooms/kitchen").click("Moderate")
    _, of_ann, of_bob = page.forms.values()
    assert of_ann["user"].value == "1"
    assert "Was put out" in of_bob.submit("out").follow().html.main.text
    answer = bob.get("/rooms/kitchen", headers={"Accept": "text/html"}, status=403)
    assert "may not go in" in answer.html.main.text
    bob.get(picture, status=403)
    bob.say("hello", status=403)
    assert unread(bob) == {}
    bob.get("/rooms/garden")
    ann.get("/rooms/kitchen")
    assert unread(eve) == {"kitchen": 1}
    eve.moderate("2", "in")
    bob.get("/rooms/kitchen")


@pytest.mark.parametrize("what", ["in", "out"])
def test_to_do_it_twice_changes_nothing(eve, bob, what):
    for _ in range(2):
        eve.moderate("2", what)
    bob.get("/rooms/kitchen", status=200 if what == "in" else 403)


@pytest.mark.parametrize("user", ["", "x", "3", "4", "9" * 30])
def test_who_moderates_and_who_is_not_there_cannot_be_put_out(eve, user):
    eve.moderate(user, "out", status=400)
    eve.get("/rooms/kitchen")


def test_others_do_not_moderate(ann):
    ann.get("/rooms/kitchen/people", status=403)
    assert "Moderate" not in ann.get("/rooms/kitchen")
