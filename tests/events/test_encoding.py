"""What of an event goes over the wire, and how a reader of the standard's grammar reads it."""

import json
import re
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_asgi_consumers.events.encoding import COMMENT, encode_event, encode_id, encode_retry
from pyramid_asgi_consumers.testing.events import EventParser

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)


def read(*chunks):
    parser = EventParser()
    for chunk in chunks:
        parser.feed(chunk)
    events = []
    while (event := parser.take()) is not None:
        events.append(event)
    return events


def test_the_bytes_are_those_of_the_standard():
    assert encode_event("hello") == b"data: hello\n\n"
    assert encode_event("a\nb", "update", "7", 500) == (
        b"event: update\nid: 7\nretry: 500\ndata: a\ndata: b\n\n"
    )
    assert encode_event({"n": 1, "é": None}) == 'data: {"n":1,"é":null}\n\n'.encode()
    assert encode_event(None) == b"data: null\n\n"
    assert encode_event("") == b"data: \n\n"
    assert encode_id("x") == b"id: x\n\n"
    assert encode_retry(7) == b"retry: 7\n\n"


@given(data=TEXT, event=LINE, id=LINE, retry=st.integers(0, 10**9))
def test_any_text_arrives_as_it_is_but_for_its_line_breaks(data, event, id, retry):
    [read_event] = read(encode_event(data, event, id, retry))
    assert read_event.data == re.sub("\r\n|\r", "\n", data)
    assert (read_event.event, read_event.id) == (event or "message", id)
    assert read_event.retry == retry


@given(JSON)
def test_all_that_json_carries_arrives(value):
    [event] = read(encode_event([value]))
    assert json.loads(event.data) == [value]


@given(st.lists(TEXT, max_size=5))
def test_no_event_ends_another_and_comments_are_none(texts):
    chunks = [part for text in texts for part in (encode_event(text), COMMENT)]
    assert [event.data for event in read(*chunks)] == [
        re.sub("\r\n|\r", "\n", text) for text in texts
    ]


def test_what_only_python_takes_for_a_line_break_is_none():
    text = "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i"
    assert encode_event(text).count(b"\n") == 2
    assert read(encode_event(text))[0].data == text


@pytest.mark.parametrize("name", ["event", "id"])
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\r\n", "a\0", "\n"])
def test_a_name_and_an_id_are_one_line(name, value):
    with pytest.raises(ValueError, match=f"send: {name} must have no line break and no NUL, not "):
        encode_event("", **{name: value})


@pytest.mark.parametrize("name", ["event", "id"])
@pytest.mark.parametrize("value", [b"x", 7, ["x"]])
def test_a_name_and_an_id_are_text(name, value):
    with pytest.raises(TypeError, match=f"send: {name} must be a str or None, not "):
        encode_event("", **{name: value})


@pytest.mark.parametrize("value", ["5", 1.5, True])
def test_retry_is_a_number(value):
    with pytest.raises(TypeError, match="send: retry must be an int of milliseconds or None"):
        encode_event("", retry=value)


def test_members_of_an_enum_are_their_values():
    class Kind(str, Enum):
        NEWS = "news"

    class Wait(int, Enum):
        SHORT = 5

    sent = encode_event(Kind.NEWS, Kind.NEWS, Kind.NEWS, Wait.SHORT)
    assert sent == b"event: news\nid: news\nretry: 5\ndata: news\n\n"


def test_retry_is_no_negative_number():
    with pytest.raises(ValueError, match="send: retry must be 0 milliseconds or more, not -1"):
        encode_event("", retry=-1)


@pytest.mark.parametrize(
    "data, error",
    [
        (b"bytes", TypeError),
        (object(), TypeError),
        ({"when": {1, 2}}, TypeError),
        (float("nan"), ValueError),
    ],
)
def test_data_is_text_or_what_json_carries(data, error):
    with pytest.raises(error, match="send: data must be a str or what JSON carries, not this "):
        encode_event(data)


def test_data_that_contains_itself_is_refused():
    data = []
    data.append(data)
    with pytest.raises(ValueError, match="not this list"):
        encode_event(data)
    for _ in range(100_000):
        data = [data]
    with pytest.raises(RecursionError, match="not this list"):
        encode_event(data)


@pytest.mark.parametrize("arguments", [("\ud800",), ("", "\udfff"), ("", None, "\ud800")])
def test_half_a_pair_is_refused(arguments):
    with pytest.raises(ValueError, match="send: an event must be valid Unicode, and has "):
        encode_event(*arguments)
