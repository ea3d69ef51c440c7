"""Files as responses: wsgi.file_wrapper."""

import asyncio
import io
import itertools
import os
import time
import types

import pytest

from pyramid_asgi_consumers import WSGIBridge
from pyramid_asgi_consumers.exceptions import WSGIError
from pyramid_asgi_consumers.wsgi import response, sources
from tests.support.asgi import body_of, http_scope, run
from tests.support.wsgi import KIB, Exchange, File, answers, request, status_of, wait_until


def file_app(file, headers=(), write=b""):
    def app(environ, start_response):
        start_response("200 OK", list(headers))(write)
        return environ["wsgi.file_wrapper"](file)

    return app


@pytest.mark.parametrize("size", [0, 1, 600_000])
@pytest.mark.parametrize("declared", [False, True])
async def test_a_file_is_sent_whole_and_closed(size, declared):
    file = File(b"x" * size)
    headers = [("Content-Length", str(size))] * declared
    sent = await run(WSGIBridge(file_app(file, headers), 1), http_scope())
    assert len(body_of(sent)) == size
    assert [message["more_body"] for message in sent[1:]].index(False) == len(sent) - 2
    assert file.closings == 1


@pytest.mark.parametrize(
    "begin, stands, length", [(b"abcdef", 0, b"6"), (b"abcdef", 4, b"2"), (b"", 0, None)]
)
async def test_a_file_that_can_tell_its_size_gets_its_content_length(begin, stands, length):
    file = File(begin)
    file.seek(stands)
    sent = await run(WSGIBridge(file_app(file)), http_scope())
    assert dict(sent[0]["headers"]).get(b"content-length") == length
    assert body_of(sent) == begin[stands:]


async def test_a_file_that_cannot_tell_its_size_is_sent_without():
    reading, writing = os.pipe()
    with open(writing, "wb") as file:
        file.write(b"abc")
    sent = await run(WSGIBridge(file_app(open(reading, "rb"))), http_scope())
    assert (sent[0]["headers"], body_of(sent)) == ([], b"abc")
    file = types.SimpleNamespace(read=lambda size: b"")
    sent = await run(WSGIBridge(file_app(file)), http_scope())
    assert (sent[0]["headers"], body_of(sent)) == ([], b"")


async def test_a_file_holds_no_thread_between_its_chunks():
    file = File(b"x" * 600_000)
    page = answers([b"page"])

    def app(environ, start_response):
        serve = file_app(file) if environ["PATH_INFO"] == "/file" else page
        return serve(environ, start_response)

    bridge = WSGIBridge(app, 1)
    exchange = Exchange(bridge, scope=http_scope("/file"))
    await wait_until(lambda: exchange.sending)
    assert body_of(await run(bridge, http_scope())) == b"page"
    exchange.taking.set()
    await exchange.task
    assert len(body_of(exchange.sent)) == 600_000


async def test_a_file_is_read_no_further_than_its_content_length():
    file = File(b"abcdef")
    sent = await run(WSGIBridge(file_app(file, [("Content-Length", "4")])), http_scope())
    assert (body_of(sent), file.closings) == (b"abcd", 1)


async def test_a_file_that_gives_more_than_it_is_asked_for_is_cut():
    class Generous(File):
        def read(self, size=-1):
            return super().read()

    sent = await run(
        WSGIBridge(file_app(Generous(b"abcd"), [("Content-Length", "3")])), http_scope()
    )
    assert body_of(sent) == b"abc"


async def test_a_file_shorter_than_its_content_length_breaks_off():
    file = File(b"abc")
    with pytest.raises(WSGIError, match="699997 bytes before"):
        await run(WSGIBridge(file_app(file, [("Content-Length", "700000")])), http_scope())
    assert file.closings == 1


async def test_a_small_file_shorter_than_its_content_length_is_an_error_of_the_application(caplog):
    file = File(b"abc")
    sent = await run(WSGIBridge(file_app(file, [("Content-Length", "9")])), http_scope())
    assert (status_of(sent), file.closings) == (500, 1)
    assert "6 bytes before its Content-Length of 9" in caplog.text


class Broken(File):
    def read(self, size=-1):
        raise OSError("bad sector")


async def test_a_file_that_cannot_be_read_breaks_off():
    file = Broken(b"x" * 700 * KIB)
    with pytest.raises(OSError, match="bad sector"):
        await run(WSGIBridge(file_app(file)), http_scope())
    assert file.closings == 1


async def test_a_small_file_that_cannot_be_read_is_an_error_of_the_application(caplog):
    file = Broken(b"x")
    assert status_of(await run(WSGIBridge(file_app(file)), http_scope())) == 500
    assert file.closings == 1
    assert "bad sector" in caplog.text


async def test_a_file_of_text_breaks_off(caplog):
    with pytest.raises(WSGIError, match="must give bytes, not str"):
        await run(WSGIBridge(file_app(io.StringIO("text" * 100 * KIB))), http_scope())
    assert status_of(await run(WSGIBridge(file_app(io.StringIO("text"))), http_scope())) == 500
    assert "must give bytes, not str" in caplog.text


async def test_a_file_without_close_is_sent():
    class Reader:
        read = io.BytesIO(b"abc").read

    assert body_of(await run(WSGIBridge(file_app(Reader())), http_scope())) == b"abc"


async def test_a_file_after_write_is_sent_behind_it():
    file = File(b"file")
    sent = await run(WSGIBridge(file_app(file, write=b"written, ")), http_scope())
    assert (body_of(sent), file.closings) == (b"written, file", 1)


async def test_a_file_for_a_head_request_is_closed_and_not_sent():
    file = File(b"file")
    sent = await run(WSGIBridge(file_app(file)), http_scope(method="HEAD"))
    assert (body_of(sent), file.closings) == (b"", 1)


@pytest.mark.parametrize("start", [True, False])
async def test_a_file_of_a_response_that_fails_is_closed(start):
    file = File(b"file")

    def app(environ, start_response):
        if start:
            start_response("200 OK", [("Content-Length", "x")])
        return environ["wsgi.file_wrapper"](file)

    assert status_of(await run(WSGIBridge(app), http_scope())) == 500
    assert file.closings == 1


async def test_a_client_that_leaves_closes_the_file():
    file = File(b"x" * 2**22)
    exchange = Exchange(WSGIBridge(file_app(file)))
    await wait_until(lambda: exchange.sending)
    exchange.left.set()
    exchange.taking.set()
    await exchange.task
    assert file.closings == 1
    assert len(body_of(exchange.sent)) < 2**22


async def test_the_request_body_may_be_the_file():
    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](environ["wsgi.input"])

    body = b"x" * 700 * KIB
    sent = await run(WSGIBridge(app), http_scope(method="POST"), request(body))
    assert body_of(sent) == body


# Where and how they are read.


async def test_a_small_file_is_read_and_closed_where_it_was_opened(monkeypatch):
    bridge = WSGIBridge(file_app(file := File(b"x" * response.BLOCK)))
    monkeypatch.setattr(bridge.pool, "run", None)
    sent = await run(bridge, http_scope())
    assert [message.get("body") for message in sent] == [None, b"x" * response.BLOCK]
    assert file.closings == 1


BYTES = bytes(range(256)) * 4 * KIB


@pytest.fixture(params=["memory", "disk", "by turns", "other systems"])
def cached(request, monkeypatch):
    """Files are in memory, or are not, or now and then; or it is not known."""
    number = itertools.count()
    preadv = os.preadv

    def sometimes(*args):
        if request.param == "disk" or (request.param == "by turns" and next(number) % 2):
            raise BlockingIOError
        return preadv(*args)

    monkeypatch.setattr(os, "preadv", sometimes)
    if request.param == "other systems":
        monkeypatch.setattr(sources, "RWF_NOWAIT", None)


@pytest.mark.parametrize("declared", [None, 1, response.BLOCK, response.BLOCK + 1, 900_000])
@pytest.mark.parametrize("begins", [0, 1, 300_001])
async def test_a_plain_file_is_sent_as_any_other(tmp_path, cached, begins, declared):
    (tmp_path / "file").write_bytes(BYTES[:1_000_000])
    opened = []

    def app(environ, start_response):
        length = [] if declared is None else [("Content-Length", str(min(declared, 699_999)))]
        start_response("200 OK", length)
        opened.append(open(tmp_path / "file", "rb"))
        opened[0].seek(begins)
        # What it has read ahead is where others look.
        assert opened[0].peek(1)
        return environ["wsgi.file_wrapper"](opened[0])

    end = 1_000_000 if declared is None else begins + min(declared, 699_999)
    sent = await run(WSGIBridge(app), http_scope())
    assert body_of(sent) == BYTES[begins:end]
    assert dict(sent[0]["headers"])[b"content-length"] == str(end - begins).encode()
    assert opened[0].closed


@pytest.mark.parametrize("is_cut_to", [0, 500_000])
async def test_a_plain_file_that_is_cut_meanwhile_breaks_off(tmp_path, cached, is_cut_to):
    (tmp_path / "file").write_bytes(BYTES[:1_000_000])
    file = open(tmp_path / "file", "rb")

    def app(environ, start_response):
        start_response("200 OK", [("Content-Length", "1000000")])
        os.truncate(tmp_path / "file", is_cut_to)
        return environ["wsgi.file_wrapper"](file)

    with pytest.raises(WSGIError, match=f"{1_000_000 - is_cut_to} bytes before"):
        await run(WSGIBridge(app), http_scope())
    assert file.closed


async def test_what_reads_otherwise_than_its_file_is_asked_itself(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 700 * KIB)

    class Upper(io.BufferedReader):
        def read(self, size=-1):
            return super().read(size).upper()

    file = Upper(io.FileIO(tmp_path / "file"))
    assert body_of(await run(WSGIBridge(file_app(file)), http_scope())) == b"X" * 700 * KIB


async def test_a_file_in_memory_leaves_others_their_turn(tmp_path):
    (tmp_path / "file").write_bytes(BYTES * 16)
    turns = []

    async def send(message):
        # It never waits, but takes its time.
        time.sleep(0.002)
        turns.append(len(ticks))

    async def tick():
        while True:
            ticks.append(True)
            await asyncio.sleep(0)

    ticks = []
    ticking = asyncio.create_task(tick())
    bridge = WSGIBridge(file_app(open(tmp_path / "file", "rb")))
    await bridge(http_scope(), asyncio.Event().wait, send)
    ticking.cancel()
    # 64 blocks, and 0.13 s.
    assert len(set(turns)) > 8
