"""``examples/echo.py``: served by Daphne, looked at in a browser."""

import pytest
from playwright.sync_api import expect

from tests.support.browser import browsing
from tests.support.clients import DEADLINE, HOST
from tests.support.servers import running

pytestmark = pytest.mark.browser

expect.set_options(timeout=DEADLINE * 1000)


def test_the_page_shows_what_its_websocket_echoes(tmp_path):
    with running("daphne", tmp_path, app="examples.echo:app") as server:
        with browsing(f"http://{HOST}:{server.port}/") as page:
            expect(page.get_by_role("heading")).to_have_text("Echo")
            shown = page.get_by_role("listitem")
            # Of the three messages that the page sends, Daphne 4.2.3 drops the empty one, of
            # its own as of others: tests/servers/test_servers.py has the table.
            expect(shown).to_have_text(["text: Hello, socket", "bytes: 1,2,3"])
            page.get_by_role("textbox").fill("typed by hand")
            page.get_by_role("button").click()
            expect(shown.nth(2)).to_have_text("text: typed by hand")
            expect(page.get_by_role("textbox")).to_have_value("")
            page.evaluate("socket.close()")
            expect(shown.nth(3)).to_have_text("closed")


def test_the_page_shows_empty_text_where_the_server_passes_it(tmp_path):
    with running("uvicorn-sansio", tmp_path, app="examples.echo:app") as server:
        with browsing(f"http://{HOST}:{server.port}/") as page:
            expected = ["text: Hello, socket", "text: ", "bytes: 1,2,3"]
            expect(page.get_by_role("listitem")).to_have_text(expected)


def test_a_missing_browser_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssertionError, match="needs a browser"):
        browsing("http://localhost/").__enter__()
