"""The reader of event streams, against the HTML standard § 9.2.6."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyramid_asgi_consumers.testing.events import EventParser, ServerSentEvent


def read(*chunks, last_event_id=""):
    """The events that come of ``chunks``, and the parser."""
    parser = EventParser(last_event_id)
    events = []
    for chunk in chunks:
        parser.feed(chunk)
        events += iter(parser.take, None)
    return events, parser


def as_tuples(events):
    return [(event.data, event.event, event.id, event.retry) for event in events]


def read_whole(stream):
    """The same of a whole stream, as the standard's ABNF (§ 9.2.5) has it, in another way.

    Returns the events as tuples, the last event id, and the reconnection time.
    """
    text = stream.decode("utf-8", "replace")
    text = text[1:] if text.startswith("\ufeff") else text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    events, last_id, time = [], "", None
    # What no empty line follows does not count, but for its reconnection time.
    for block, end in re.findall(r"((?:[^\n]+\n)*)(\n|\Z)", text[: text.rfind("\n") + 1]):
        fields = [
            (name, value)
            for name, value in re.findall(r"^([^:\n]+)(?::[ ]?([^\n]*))?$", block, re.M)
            if not (name == "id" and "\0" in value)
            and not (name == "retry" and not re.fullmatch("[0-9]+", value))
        ]
        found = dict(fields)
        retry = int(found["retry"]) if "retry" in found else None
        time = time if retry is None else retry
        if end:
            last_id = found.get("id", last_id)
        if end and "data" in found:
            data = "\n".join(value for name, value in fields if name == "data")
            events.append((data, found.get("event") or "message", last_id, retry))
    return events, last_id, time


def test_an_event_has_what_a_browser_gives_it():
    (event,), parser = read(b"event: news\nid: 7\nretry: 3000\ndata: one\ndata: two\n\n")
    assert event == ServerSentEvent("one\ntwo", "news", "7", 3000)
    assert (parser.last_event_id, parser.retry) == ("7", 3000)


def test_without_fields_of_its_own_it_is_a_message_with_the_id_that_holds():
    events, _ = read(b"data: a\n\nid: 7\ndata: b\n\ndata: c\n\nid\ndata: d\n\n")
    assert events == [
        ServerSentEvent("a"),
        ServerSentEvent("b", id="7"),
        ServerSentEvent("c", id="7"),
        ServerSentEvent("d"),
    ]


def test_the_examples_of_the_standard():
    events, _ = read(b"data: YHOO\ndata: +2\ndata: 10\n\n")
    assert events == [ServerSentEvent("YHOO\n+2\n10")]
    events, parser = read(
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n",
        b"data:  third event\n",
    )
    assert events == [ServerSentEvent("first event", id="1"), ServerSentEvent("second event")]
    assert parser.unfinished == " third event"
    assert parser.comments == 1
    events, _ = read(b"data\n\ndata\ndata\n\ndata:")
    assert events == [ServerSentEvent(""), ServerSentEvent("\n")]
    assert read(b"data:test\n\ndata: test\n\n")[0] == [ServerSentEvent("test")] * 2


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_line_may_end_in_each_way_and_an_event_is_there_with_its_last_byte(end):
    stream = end.join([b"data: a", b"data: b", b"", b"data: c", b"", b""])
    events, parser = read(*(stream[at : at + 1] for at in range(len(stream))))
    assert [event.data for event in events] == ["a\nb", "c"]
    events, _ = read(stream[: -len(end)], b"", end[:1])
    assert [event.data for event in events] == ["a\nb", "c"]


def test_lines_do_not_end_at_what_else_unicode_has_for_that():
    text = "a\x0b\x0c\x1c\x85\u2028\u2029b"
    assert read(f"data: {text}\n\n".encode())[0] == [ServerSentEvent(text)]


def test_a_byte_order_mark_is_no_part_of_the_stream_but_a_second_one_is():
    mark = "\ufeff".encode()
    assert read(mark[:1], mark[1:], b"data: a\n\n")[0] == [ServerSentEvent("a")]
    assert read(mark * 2, b"data: a\n\n")[0] == []
    assert read(b"data: a\n\n", mark, b"data: b\n\n")[0] == [ServerSentEvent("a")]


def test_what_is_not_utf_8_is_replaced():
    assert read(b"data: \xff\xc3", b"\xa9\xe2\n\n")[0] == [ServerSentEvent("\ufffdé\ufffd")]


@pytest.mark.parametrize("field", [b"id: 8\0", b"retry: 1s", b"retry: -1", b"retry: \xd9\xa3",
                                   b"retry", b"retry: " + b"9" * 5000, b"ID: 8", b"id : 8",
                                   b" id: 8", b"unknown: 8", b"retry:  8"])  # fmt: skip
def test_a_field_that_means_nothing_is_ignored(field):
    events, parser = read(b"id: 7\n\n" + field + b"\ndata: a\n\n")
    assert events == [ServerSentEvent("a", id="7")]
    assert parser.retry is None


def test_an_id_without_data_is_no_event_but_where_the_client_comes_back():
    events, parser = read(b"id: 7\nretry: 5\nevent: news\n\n")
    assert (events, parser.last_event_id, parser.retry) == ([], "7", 5)
    events, parser = read(b"data: a\n\nid: 8\n", last_event_id="7")
    assert events == [ServerSentEvent("a", id="7")]
    assert parser.last_event_id == "7"


def test_a_client_comes_back_with_what_it_has_taken_and_not_with_what_else_has_come():
    parser = EventParser()
    parser.feed(b"id: 1\n\nid: 2\ndata: a\n\n: c\nid: 3\n\nid: 4\n\nid: 5\ndata: b\n\nid: 6\n\n")
    assert parser.last_event_id == "1"
    assert parser.take().id == "2"
    assert parser.last_event_id == "4"
    assert parser.take().id == "5"
    assert parser.last_event_id == "6"
    assert parser.take() is None


# Any stream, cut anywhere.

PIECES = st.sampled_from(
    ["data", "event", "id", "retry", ":", ": ", " ", "\n", "\r", "\r\n", "\n\n", "\0", "\ufeff",
     "12", "٣", "a", "é", "\u2028", "\U0001f600", "data: x\n\n", "id: 1\n\n"]  # fmt: skip
)  # fmt: skip
STREAMS = st.one_of(
    st.lists(PIECES).map(lambda pieces: "".join(pieces).encode()),
    st.lists(st.one_of(PIECES.map(str.encode), st.binary(max_size=3))).map(b"".join),
)


@given(STREAMS, st.lists(st.integers(min_value=0, max_value=60)))
def test_a_stream_that_is_cut_anywhere_is_read_as_the_whole(stream, cuts):
    whole, last_id, time = read_whole(stream)
    places = [0, *sorted(cuts), len(stream)]
    chunks = [stream[a:b] for a, b in zip(places, places[1:], strict=False)]
    events, parser = read(*chunks)
    assert as_tuples(events) == whole
    assert (parser.last_event_id, parser.retry) == (last_id, time)


@given(STREAMS, st.sets(st.integers(min_value=0, max_value=60)))
def test_to_ask_where_to_come_back_changes_nothing_of_what_is_read(stream, asked):
    parser = EventParser()
    events, ids, asked_ids = [], [""], []
    for at in range(len(stream)):
        parser.feed(stream[at : at + 1])
        if at in asked:
            asked_ids.append(parser.last_event_id)
        events += iter(parser.take, None)
        ids.append(parser.last_event_id)
    whole, last_id, _ = read_whole(stream)
    assert as_tuples(events) == whole
    assert ids[-1] == last_id and set(asked_ids) <= set(ids)
