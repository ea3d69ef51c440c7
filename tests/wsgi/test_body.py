import asyncio
import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyramid_asgi_consumers.exceptions import BadRequest, BodyTooLarge, ClientDisconnected
from pyramid_asgi_consumers.wsgi.body import MEMORY, SharedReceive, has_no_body, read_body
from tests.support.asgi import http_scope
from tests.support.wsgi import DISCONNECT, request, wait_until

KIB = 1024


def receiving(*messages):
    waiting = list(messages)

    async def receive():
        return waiting.pop(0)

    return receive, waiting


async def read(*chunks, length=None, limit=2**30):
    messages = [request(chunk, True) for chunk in chunks[:-1]]
    receive, waiting = receiving(*messages, request(chunks[-1]))
    file, size = await read_body(receive, length, limit)
    assert waiting == []
    return file, size


@pytest.mark.parametrize(
    ("method", "version", "header", "none"),
    [
        ("GET", "1.1", (b"cookie", b"a=b"), True),
        ("HEAD", "1.0", (b"cookie", b"a=b"), True),
        ("GET", "1.1", (b"content-length", b"1"), False),
        ("GET", "1.1", (b"transfer-encoding", b"chunked"), False),
        ("GET", "2", (b"cookie", b"a=b"), False),
        ("POST", "1.1", (b"cookie", b"a=b"), False),
    ],
)
def test_a_get_request_that_declares_no_body_has_none(method, version, header, none):
    assert has_no_body(http_scope("/", method, [header], http_version=version)) is none


def test_a_scope_without_version_is_read():
    scope = http_scope()
    del scope["http_version"]
    assert not has_no_body(scope)


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    ("chunks", "in_memory"),
    [
        ([b""], True),
        ([b"x" * MEMORY], True),
        ([b"x" * (MEMORY + 1)], False),
        ([b"x" * MEMORY, b""], True),
        ([b"", b"x" * MEMORY, b"y"], False),
        ([b"x" * 1000] * 1000, False),
    ],
)
async def test_a_body_stays_in_memory_up_to_512_kib(chunks, in_memory):
    file, size = await read(*chunks)
    with file:
        assert isinstance(file, io.BytesIO) is in_memory
        assert file.read() == b"".join(chunks)
        assert size == sum(map(len, chunks))


async def test_a_temporary_file_is_not_written_on_the_event_loop(monkeypatch):
    loop = asyncio.get_running_loop()
    written = []
    run_in_executor = loop.run_in_executor

    def recording(executor, function, *args):
        written.append(function.__name__)
        return run_in_executor(executor, function, *args)

    monkeypatch.setattr(loop, "run_in_executor", recording)
    file, _ = await read(*[b"x" * 300 * KIB] * 5)
    file.close()
    assert written == ["write", "write", "_finish"]


@pytest.mark.parametrize("chunks", [[b"x" * 11], [b"x" * 6, b"y" * 5]])
async def test_a_body_beyond_the_limit_is_refused(chunks):
    with pytest.raises(BodyTooLarge, match="10 bytes"):
        await read(*chunks, limit=10)


async def test_a_body_of_just_the_limit_is_read():
    file, size = await read(b"x" * 6, b"y" * 4, limit=10, length=10)
    assert (file.read(), size) == (b"xxxxxxyyyy", 10)


async def test_a_length_beyond_the_limit_is_refused_without_reading():
    receive, waiting = receiving(request(b"x"))
    with pytest.raises(BodyTooLarge):
        await read_body(receive, 11, 10)
    assert waiting


async def test_nothing_is_read_beyond_the_limit():
    receive, waiting = receiving(*[request(b"x" * 6, True)] * 3)
    with pytest.raises(BodyTooLarge):
        await read_body(receive, None, 10)
    assert len(waiting) == 1


@pytest.mark.parametrize("length", [4, 6])
@pytest.mark.parametrize("chunks", [[b"abcde"], [b"abc", b"de"]])
async def test_a_body_that_is_not_its_content_length_is_refused(chunks, length):
    with pytest.raises(BadRequest, match=f"Content-Length is {length}, but 5 bytes came"):
        await read(*chunks, length=length)


@pytest.mark.parametrize(
    "messages",
    [
        [DISCONNECT],
        [request(b"a", True), DISCONNECT],
        [request(b"x" * 600 * KIB, True), DISCONNECT],
    ],
)
async def test_a_client_that_leaves_leaves_no_file_open(messages):
    before = open_files()
    receive, _ = receiving(*messages)
    with pytest.raises(ClientDisconnected):
        await read_body(receive, None, 2**30)
    await wait_until(lambda: open_files() == before)


@pytest.mark.parametrize("steps", range(8))
async def test_a_request_that_is_cancelled_leaves_no_file_open(steps):
    before = open_files()
    received = 0

    async def receive():
        nonlocal received
        received += 1
        return request(b"x" * 600 * KIB, True)

    task = asyncio.create_task(read_body(receive, None, 2**30))
    await wait_until(lambda: received > steps)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: open_files() == before)


sizes = st.none() | st.integers(-1, 700 * KIB) | st.integers(0, 40)
operations = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["read", "readline"]), sizes),
        st.tuples(st.just("readlines"), st.none() | st.integers(0, 2000)),
        st.tuples(st.just("seek"), st.integers(0, 700 * KIB)),
        st.tuples(st.sampled_from(["tell", "next", "iterate"])),
    ),
    max_size=8,
)


def outcomes(file, steps):
    for name, *args in steps:
        if name == "next":
            yield next(iter(file), None)
        elif name == "iterate":
            yield list(file)
        elif name == "readlines":
            # Files differ in whether lines of just so many bytes as were hinted are enough.
            yield file.readlines(*args)[:1]
            file.seek(0)
        else:
            yield getattr(file, name)(*args)
    file.seek(0)
    yield file.read()


@settings(max_examples=60, deadline=None)
@given(
    line=st.binary(min_size=1, max_size=40).map(lambda line: line + b"\n"),
    copies=st.integers(0, 4) | st.sampled_from([20_000, 300_000]),
    cut=st.integers(1, 300 * KIB),
    steps=operations,
)
def test_wsgi_input_behaves_as_a_file(line, copies, cut, steps):
    data = (line * copies)[: 700 * KIB] + b"end"
    chunks = [data[at : at + cut] for at in range(0, len(data), cut)][:1000]
    data = b"".join(chunks)
    file, _ = asyncio.run(read(*chunks))
    with file:
        assert list(outcomes(file, steps)) == list(outcomes(io.BytesIO(data), steps))


class Server:
    """Has one message after the other, when it is told."""

    def __init__(self):
        self.waiting = 0
        self.messages = asyncio.Queue()

    async def receive(self):
        self.waiting += 1
        try:
            return await self.messages.get()
        finally:
            self.waiting -= 1


async def test_several_tasks_receive_and_the_server_hears_one():
    server = Server()
    shared = SharedReceive(server.receive)
    tasks = [asyncio.create_task(shared()) for _ in range(3)]
    await asyncio.sleep(0)
    assert server.waiting == 1
    server.messages.put_nowait(DISCONNECT)
    assert await asyncio.wait_for(asyncio.gather(*tasks), 20) == [DISCONNECT] * 3
    # Servers need not tell it again.
    assert await asyncio.wait_for(shared(), 20) == DISCONNECT


async def test_where_the_one_is_cancelled_another_takes_its_place():
    server = Server()
    shared = SharedReceive(server.receive)
    first, *others = [asyncio.create_task(shared()) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    server.messages.put_nowait(request(b"one"))
    assert await asyncio.wait_for(asyncio.gather(*others), 20) == [request(b"one")] * 2
    assert server.waiting == 0
