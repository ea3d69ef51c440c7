"""A page in Chromium whose session lasts five seconds, and its websocket: ``clickingapp.py``."""

import time

import pytest
from playwright.sync_api import expect

from tests.support.browser import browsing
from tests.support.clients import DEADLINE, HOST
from tests.support.servers import running, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.streams]

expect.set_options(timeout=DEADLINE * 1000)

#: As the application has it.
TIMEOUT = 5

NO_LONGER = "is closed with 4403: 'no longer permitted'"


@pytest.fixture
def page(tmp_path):
    """A page that is logged in, and its server."""
    with running("uvicorn-sansio", tmp_path, "tests.apps.clickingapp:app") as server:
        with browsing(f"http://{HOST}:{server.port}/log_in") as page:
            expect(page.get_by_role("listitem")).to_have_text(["opened"])
            yield page, server


def click(page, count):
    """Click, as a user who never rests longer than half a second."""
    page.get_by_role("button").click()
    expect(page.get_by_role("status")).to_have_text(f"200 {count}")


def test_who_keeps_clicking_is_never_logged_out(page):
    page, server = page
    shown = page.get_by_role("listitem")
    began = time.monotonic()
    count = 0
    # The socket's own session is over, twice.
    while server.logged().count(NO_LONGER) < 2:
        count += 1
        click(page, count)
        page.wait_for_timeout(300)
        assert time.monotonic() - began < DEADLINE
    # The cookie of the first one has lasted, and so has that of the second.
    assert time.monotonic() - began > 2 * TIMEOUT - 1
    expect(shown).to_have_text(["opened"] * 3)
    click(page, count + 1)


def test_who_does_nothing_is_logged_out(page):
    page, server = page
    # One new handshake decides, and there is no other.
    expect(page.get_by_role("listitem")).to_have_text(["opened", "ended"])
    assert server.logged().count(NO_LONGER) == 1
    assert server.logged().count("403 for a handshake") == 1


def test_who_logs_out_elsewhere_in_the_browser_is_out(page):
    page, server = page
    # With the page's cookies.
    page.request.get(f"http://{HOST}:{server.port}/log_out")
    expect(page.get_by_role("listitem")).to_have_text(["opened", "ended"])
    wait_until(lambda: "is closed with 4401" in server.logged(), "the log-out", server)
    assert "403 for a handshake" not in server.logged()
