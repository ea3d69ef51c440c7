"""A page behind nginx follows event streams over restarts of the server: see ``resumingapp.py``."""

import contextlib
import uuid
from functools import partial

import pytest
from playwright.sync_api import expect

from pyramid_asgi_consumers.channels.redis import RedisBackend
from tests.support.browser import browsing
from tests.support.channels import published
from tests.support.clients import DEADLINE, HOST
from tests.support.servers import free_port, started, wait_until
from tests.support.sites import site, start_nginx

pytestmark = [
    pytest.mark.browser,
    pytest.mark.deployment,
    pytest.mark.redis,
    pytest.mark.streams,
]

expect.set_options(timeout=DEADLINE * 1000)

COMMANDS = {
    "uvicorn": "uvicorn --host 127.0.0.1 --port {port} tests.apps.resumingapp:app",
    "daphne": "daphne --bind 127.0.0.1 --port {port} tests.apps.resumingapp:app",
}


class News:
    """What is published: text, on a channel of its own."""

    def __init__(self, url):
        self.name = f"news-{uuid.uuid4()}"
        self.backend = RedisBackend(url, history=100, timeout=DEADLINE)

    def publish(self, text):
        (id,) = published(self.backend, (self.name, text))
        assert isinstance(id, str), id


@pytest.fixture
def news(redis_server):
    news = News(redis_server.url)
    yield news
    news.backend.blocking.pool.disconnect()


@pytest.fixture(params=COMMANDS)
def behind(request, tmp_path, news, redis_server):
    """nginx, and what runs the server behind it: the same, and anew, each time."""
    port = free_port()
    environ = {"CHANNELS": redis_server.url, "NEWS": news.name}
    command = COMMANDS[request.param].format(port=port).split()
    serving = partial(started, request.param, command, port, tmp_path, environ)
    with site(request.param, tmp_path) as it:
        start_nginx(it, f"{HOST}:{port}")
        yield it, serving


def opened(server):
    wait_until(lambda: "A stream has begun" in server.logged(), "the stream", server)


def refused(site):
    """nginx has said that nobody serves."""
    log = site.directory / "access.log"
    wait_until(lambda: '"GET /news' in log.read_text() and '" 502 ' in log.read_text(), "502", site)


@pytest.mark.parametrize("behind", ["uvicorn"], indirect=True)
@pytest.mark.parametrize("seen", [["one"], []], ids=["after news", "before any"])
def test_a_page_comes_back_after_a_502_and_misses_nothing(seen, behind, news):
    it, serving = behind
    with contextlib.ExitStack() as stack:
        with serving() as server:
            page = stack.enter_context(browsing(it.origin, ignore_https_errors=True))
            opened(server)
            shown = page.get_by_role("listitem")
            for text in seen:
                news.publish(text)
            expect(shown).to_have_text(seen)
        news.publish("two")
        refused(it)
        news.publish("three")
        with serving() as server:
            expect(shown).to_have_text([*seen, "two", "three"])
            news.publish("four")
            expect(shown).to_have_text([*seen, "two", "three", "four"])


def test_a_page_comes_back_to_a_server_that_was_away_for_a_moment(behind, news):
    it, serving = behind
    with contextlib.ExitStack() as stack:
        for text in ("one", "two", "three"):
            with serving() as server:
                if text == "one":
                    page = stack.enter_context(browsing(it.origin, ignore_https_errors=True))
                    shown = page.get_by_role("listitem")
                opened(server)
                news.publish(text)
                expect(shown.last).to_have_text(text)
        expect(shown).to_have_text(["one", "two", "three"])
