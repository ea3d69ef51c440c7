"""What PEP 3333 asks of an application: start_response, write, status, headers, Content-Length."""

import sys
import threading

import pytest

from pyramid_asgi_consumers import WSGIBridge
from pyramid_asgi_consumers import headers as headers_module
from pyramid_asgi_consumers.exceptions import ClientDisconnected, WSGIError
from pyramid_asgi_consumers.wsgi.answer import Answer
from tests.support.asgi import body_of, http_scope, run
from tests.support.wsgi import Closing, Exchange, answers, levels, status_of, wait_until

# An answer alone


def answered(headers=(), method="GET", status="200 OK"):
    answer = Answer(method)
    answer.start_response(status, list(headers))
    return answer


def test_headers_are_final_once_the_answer_has_started():
    answer = answered([("A", "1")])
    answer.start_response("503 Late", [("B", "2")], (ValueError, ValueError("early"), None))
    answer.start()
    assert answer.head == (503, [(b"b", b"2")])
    with pytest.raises(ValueError, match="late"):
        answer.start_response("500 Error", [], (ValueError, ValueError("late"), None))


def test_the_size_of_a_body_that_is_known_becomes_its_content_length():
    answer = answered()
    answer.start(5)
    assert (answer.head, answer.length) == ((200, [(b"content-length", b"5")]), 5)
    told = answered([("Content-Length", "7")])
    told.start(5)
    assert (told.head, told.length) == ((200, [(b"content-length", b"7")]), 7)


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200"), ("GET", "204"), ("GET", "304")])
def test_who_gets_no_body_needs_none(method, status):
    answer = answered([("Content-Length", "7")], method, status)
    answer.start()
    assert answer.bodyless
    answer.end(None)


def test_a_body_is_measured_and_cut(caplog):
    answer = answered([("Content-Length", "5")])
    answer.start()
    assert [answer.measured(chunk) for chunk in (b"abc", b"def", b"ghi")] == [b"abc", b"de", b""]
    answer.end(None)
    assert levels(caplog) == ["WARNING"]


def test_an_end_that_is_too_early_is_an_error():
    with pytest.raises(WSGIError, match="without calling start_response"):
        Answer("GET").end(None)
    answer = answered([("Content-Length", "5")])
    answer.start()
    answer.measured(b"abc")
    with pytest.raises(WSGIError, match="is 3 bytes, its Content-Length is 5"):
        answer.end(None)


@pytest.mark.parametrize(
    ("answer", "chunk", "message"),
    [
        (Answer("GET"), b"a", "a chunk before it called start_response"),
        (answered(), "a", "must be bytes, not str"),
    ],
)
def test_a_chunk_is_bytes_and_behind_start_response(answer, chunk, message):
    with pytest.raises(WSGIError, match=message):
        answer.checked(chunk)


# start_response and write


async def test_headers_wait_for_the_first_chunk_that_is_not_empty():
    release = threading.Event()
    waiting = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [("X-First", "1")])
        yield b""
        waiting.set()
        assert release.wait(20)
        try:
            raise ValueError
        except ValueError:
            start_response("503 Service Unavailable", [("X-Second", "2")], sys.exc_info())
        yield b"sorry"

    exchange = Exchange(WSGIBridge(app))
    await wait_until(waiting.is_set)
    assert exchange.sending == 0
    release.set()
    exchange.taking.set()
    await exchange.task
    assert status_of(exchange.sent) == 503
    assert exchange.sent[0]["headers"] == [(b"x-second", b"2")]


async def test_start_response_again_after_the_start_raises_what_it_was_given():
    raised = []

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"a"
        try:
            raise ValueError("first")
        except ValueError as error:
            raised.append(error)
            start_response("500 Error", [], sys.exc_info())

    with pytest.raises(ValueError, match="first") as error:
        await run(WSGIBridge(app), http_scope())
    assert error.value is raised[0]


async def test_start_response_again_without_exc_info_is_an_error():
    def app(environ, start_response):
        start_response("200 OK", [])
        start_response("200 OK", [])

    assert status_of(await run(WSGIBridge(app), http_scope())) == 500


async def test_start_response_may_wait_for_the_iteration():
    def app(environ, start_response):
        start_response("201 Created", [])
        yield b"made"

    sent = await run(WSGIBridge(app), http_scope())
    assert (status_of(sent), body_of(sent)) == (201, b"made")


@pytest.mark.parametrize("result", [[], [b""], [b"a"], [b"", b"a"]])
async def test_start_response_never_called_is_500(result, caplog):
    response = Closing(result)
    assert status_of(await run(WSGIBridge(lambda *args: response), http_scope())) == 500
    assert response.closed == 1
    assert "start_response" in caplog.text


async def test_write_sends_before_the_iterable():
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"a")
        write(b"")
        return [b"b"]

    sent = await run(WSGIBridge(app), http_scope())
    assert body_of(sent) == b"ab"
    assert sent[0]["headers"] == []


class Writing:
    """Says that it is one chunk, and writes."""

    def __init__(self, before=(), after=()):
        self.before = before
        self.after = after

    def __call__(self, environ, start_response):
        self.write = start_response("200 OK", [])
        return self

    def __len__(self):
        return 1

    def __iter__(self):
        for data in self.before:
            self.write(data)
        yield b"world"
        for data in self.after:
            self.write(data)


async def test_write_within_the_iteration_is_sent_where_it_was_called():
    assert body_of(await run(WSGIBridge(Writing([b"hello "])), http_scope())) == b"hello world"


async def test_write_behind_the_only_chunk_is_beyond_its_length(caplog):
    assert body_of(await run(WSGIBridge(Writing(after=[b"!"])), http_scope())) == b"world"
    assert levels(caplog) == ["WARNING"]


async def test_write_raises_where_the_client_has_left(caplog):
    raised = []
    left = threading.Event()

    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"a")
        assert left.wait(20)
        try:
            write(b"b")
        except OSError as error:
            raised.append(error)
            raise

    bridge = WSGIBridge(app)
    exchange = Exchange(bridge)
    exchange.taking.set()
    exchange.left.set()
    await exchange.task
    left.set()
    assert await bridge.pool.drain(20)
    assert [type(error) for error in raised] == [ClientDisconnected]
    assert levels(caplog) == []


# Status and headers


async def test_a_cookie_is_not_kept():
    before = headers_module._cached_header.cache_info().currsize
    for number in range(3):
        headers = [("Set-Cookie", f"session={number} of this test")]
        sent = await run(WSGIBridge(answers([b""], headers)), http_scope())
        assert (b"set-cookie", headers[0][1].encode()) in sent[0]["headers"]
    assert headers_module._cached_header.cache_info().currsize == before


async def test_a_status_needs_no_reason():
    assert status_of(await run(WSGIBridge(answers([b"a"], status="418")), http_scope())) == 418


@pytest.mark.parametrize("headers", [(("A", "b"),), [["A", "b"]], (["A", "b"],)])
async def test_headers_need_not_be_a_list_of_tuples(headers):
    def app(environ, start_response):
        start_response("200 OK", headers)
        return [b""]

    sent = await run(WSGIBridge(app), http_scope())
    assert sent[0]["headers"][0] == (b"a", b"b")


async def test_a_status_of_600_and_more_is_the_server_s_to_judge():
    def app(environ, start_response):
        start_response("799 Much", [])
        return [b""]

    assert status_of(await run(WSGIBridge(app), http_scope())) == 799


async def test_space_around_a_value_is_no_part_of_it():
    sent = await run(WSGIBridge(answers([b""], [("X-A", " a b\t")])), http_scope())
    assert sent[0]["headers"][0] == (b"x-a", b"a b")


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200", [("Connection", "close")]),
        ("200", [("Transfer-Encoding", "chunked")]),
        ("200", [("A", "b\r\nc: d")]),
        ("200", [("A", "\u20ac")]),
        ("200", [("A b", "c")]),
        ("200", [("", "c")]),
        ("200", [("\xe9", "c")]),
        ("200", [("A", 1)]),
        ("200", [(b"A", "b")]),
        ("200", [("A", "b", "c")]),
        ("200", {"A": "b"}),
        ("200", [("Content-Length", "many")]),
        ("200", [("Content-Length", "-1")]),
        ("200", [("Content-Length", "1"), ("Content-Length", "2")]),
        ("200 OK\r\nA: b", []),
        ("abc", []),
        ("101 Switching Protocols", []),
        ("1000 Too Much", []),
        (b"200 OK", []),
        (200, []),
    ],
)
async def test_what_pep_3333_forbids_is_500(status, headers):
    def app(environ, start_response):
        start_response(status, headers)
        return [b"a"]

    assert status_of(await run(WSGIBridge(app), http_scope())) == 500


@pytest.mark.parametrize("result", [None, ["text"], [1], "text", b"bytes", [None, b"a"]])
async def test_a_body_that_is_not_chunks_of_bytes_is_500(result):
    assert status_of(await run(WSGIBridge(answers(result)), http_scope())) == 500


# Content-Length


@pytest.mark.parametrize(
    ("chunks", "headers", "expected"),
    [
        ([b"abc"], [], [b"3"]),
        ((b"",), [], [b"0"]),
        ([b"abc"], [("Content-Length", "3")], [b"3"]),
        ([b"abc"], [("Content-Length", "3")] * 2, [b"3", b"3"]),
        ([b"abc", b"d"], [], []),
        ([], [], []),
        (iter([b"abc"]), [], []),
    ],
)
async def test_the_length_of_an_only_chunk_is_its_content_length(chunks, headers, expected):
    sent = await run(WSGIBridge(answers(chunks, headers)), http_scope())
    assert [value for name, value in sent[0]["headers"] if name == b"content-length"] == expected


async def test_a_sequence_that_is_longer_than_it_says_is_cut():
    class Sequence(Closing):
        def __len__(self):
            return 1

    response = Sequence([b"ab", b"cd"])
    assert body_of(await run(WSGIBridge(answers(response)), http_scope())) == b"ab"
    assert response.closed == 1


@pytest.mark.parametrize("chunks", [[b"ab", b"cd", b"ef"], [b"abcdef"], [b"abc", b"def"]])
async def test_more_bytes_than_content_length_are_cut_and_logged_once(chunks, caplog):
    bridge = WSGIBridge(answers(chunks, [("Content-Length", "3")]))
    assert body_of(await run(bridge, http_scope())) == b"abc"
    assert levels(caplog) == ["WARNING"]


@pytest.mark.parametrize("kind", [list, Closing])
@pytest.mark.parametrize("chunks", [[b"ab"], [b"a", b"b"], [b""], []])
async def test_fewer_bytes_than_content_length_break_off(chunks, kind, caplog):
    exchange = Exchange(WSGIBridge(answers(kind(chunks), [("Content-Length", "3")])))
    exchange.taking.set()
    if not b"".join(chunks):
        await exchange.task
        assert status_of(exchange.sent) == 500
    else:
        with pytest.raises(WSGIError, match="Content-Length is 3"):
            await exchange.task
        assert exchange.sent[-1]["more_body"]


@pytest.mark.parametrize("chunks", [[b"abc"], [b"a", b"bc"], [], [b""], iter([b"abc"])])
@pytest.mark.parametrize(
    ("method", "status", "kept"),
    [("HEAD", "200 OK", True), ("GET", "204 No Content", False), ("GET", "304", False)],
)
async def test_some_responses_have_no_body(method, status, kept, chunks):
    headers = [("Content-Length", "3"), ("X-A", "b")]
    bridge = WSGIBridge(answers(chunks, headers, status))
    sent = await run(bridge, http_scope(method=method))
    assert sent[1:] == [{"type": "http.response.body", "body": b"", "more_body": False}]
    assert sent[0]["headers"] == [(b"content-length", b"3")] * kept + [(b"x-a", b"b")]


async def test_a_head_request_is_not_told_the_length_of_what_it_gets():
    sent = await run(WSGIBridge(answers([b""])), http_scope(method="HEAD"))
    assert sent[0]["headers"] == []
