"""Pages that are rendered from a database and go on from there, while others write to it."""

import asyncio
import json
import random
from contextlib import AsyncExitStack

import pytest
from webtest import TestApp

from pyramid_asgi_consumers.channels import Event, channels_of
from tests.apps.pagesapp import make_app, make_engine
from tests.support.asgi import body_of, http_scope, run
from tests.support.postgres_server import find_binary, running_postgres

PAGES = 200
# Of these so many are being rendered or read at the same time, while so many publish.
AT_ONCE = 10
PUBLISHERS = 6
DATABASES = [
    "sqlite",
    *(
        pytest.param(level, marks=pytest.mark.postgres)
        for level in ("READ COMMITTED", "REPEATABLE READ")
    ),
]


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as url:
        yield url


@pytest.fixture
def open_database(request, tmp_path):
    """Make the engine of an empty database."""
    engines = []

    def open_database(database):
        if database == "sqlite":
            engine = make_engine(f"sqlite:///{tmp_path}/notes.db")
        else:
            engine = make_engine(request.getfixturevalue("postgres"), isolation_level=database)
        engines.append(engine)
        return engine

    yield open_database
    for engine in engines:
        engine.dispose()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def channels_url(request):
    if request.param == "memory":
        return "memory://"
    server = request.getfixturevalue("redis_server")
    server.client.delete("asgi:stream:notes")
    return server.url


async def call(app, method, path="/"):
    sent = await run(app, http_scope(path, method))
    assert sent[0]["status"] == 200
    return json.loads(body_of(sent))


async def publish(app, enough):
    """Write and publish notes."""
    while not enough.is_set():
        await call(app, "POST")


async def open_page(app, turn, left):
    """Read a page, and subscribe to what follows it."""
    async with turn:
        page = await call(app, "GET")
        # The browser takes its time.
        await asyncio.sleep(random.uniform(0, 0.02))
        events = channels_of(app.registry).subscribe(
            "notes", since=page["position"], max_queue=100_000
        )
        return dict(page["notes"]), await left.enter_async_context(events)


async def follow(notes, events, end):
    """Take what follows a page. What comes twice is known by its key."""
    while (event := await asyncio.wait_for(events.__anext__(), 20)).id != end:
        assert isinstance(event, Event)
        key, text = event.data
        notes[key] = text


@pytest.mark.parametrize("database", DATABASES)
async def test_no_page_lacks_what_is_published_while_it_is_read(
    database, open_database, channels_url
):
    app = make_app(open_database(database), channels_url)
    channels = channels_of(app.registry)
    enough, turn = asyncio.Event(), asyncio.Semaphore(AT_ONCE)
    publishers = [asyncio.ensure_future(publish(app, enough)) for _ in range(PUBLISHERS)]
    async with AsyncExitStack() as left:
        try:
            pages = await asyncio.gather(*(open_page(app, turn, left) for _ in range(PAGES)))
        finally:
            enough.set()
            await asyncio.gather(*publishers)
        end = await channels.publish("notes", "end")
        written = dict((await call(app, "GET"))["notes"])
        early = [len(notes) for notes, _ in pages]
        # They were read while others wrote.
        assert len(set(early)) > PUBLISHERS
        for notes, events in pages:
            await follow(notes, events, end)
            assert notes == written
    await channels.backend.aclose()


# What has to be read first, and why.


def resumed(app, path):
    """Read a page while a note is published; return whether it has it, or gets it later."""
    testapp = TestApp(app.wsgi_app)
    published = []
    app.registry.meanwhile = lambda: published.append(testapp.post("/").json["id"])
    page = testapp.get(path).json
    (key,) = published
    return key in dict(page["notes"]), page["position"]


async def is_lost(app, path):
    has, position = await asyncio.to_thread(resumed, app, path)
    channels = channels_of(app.registry)
    async with channels.subscribe("notes", since=position) as events:
        end = await channels.publish("notes", "end")
        first = await asyncio.wait_for(events.__anext__(), 20)
        return not has and first.id == end


@pytest.mark.parametrize("database", DATABASES)
async def test_a_position_that_is_read_after_the_query_loses_what_came_between(
    database, open_database
):
    app = make_app(open_database(database), "memory://")
    assert await is_lost(app, "/late")


@pytest.mark.parametrize("database", DATABASES)
async def test_a_position_that_is_read_after_the_first_query_loses_what_a_snapshot_does_not_show(
    database, open_database
):
    app = make_app(open_database(database), "memory://")
    assert await is_lost(app, "/queried") is (database == "REPEATABLE READ")


def test_a_postgresql_that_is_not_there_is_named():
    with pytest.raises(pytest.fail.Exception, match="apt-get install postgresql"):
        find_binary("no-such-binary")
