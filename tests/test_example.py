"""``examples/echo.py`` in a browser, and the own tests of ``examples/chat``."""

import os
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from tests.support.browser import browsing
from tests.support.clients import DEADLINE, HOST
from tests.support.servers import PROJECT, running

expect.set_options(timeout=DEADLINE * 1000)


@pytest.mark.browser
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


@pytest.mark.browser
def test_the_page_shows_empty_text_where_the_server_passes_it(tmp_path):
    with running("uvicorn-sansio", tmp_path, app="examples.echo:app") as server:
        with browsing(f"http://{HOST}:{server.port}/") as page:
            expected = ["text: Hello, socket", "text: ", "bytes: 1,2,3"]
            expect(page.get_by_role("listitem")).to_have_text(expected)


@pytest.mark.browser
def test_a_missing_browser_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssertionError, match="needs a browser"):
        browsing("http://localhost/").__enter__()


def run_tests_of_the_chat(*arguments):
    """Run them in a process of their own: the chat is no part of this package's tests."""
    command = [sys.executable, "-m", "pytest", "-c", "examples/chat/pyproject.toml"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *arguments, "examples/chat/tests"],
        cwd=PROJECT,
        # Not the plugins that are installed for this package's tests.
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout


def test_the_tests_of_the_chat_pass():
    run_tests_of_the_chat()


@pytest.mark.browser
def test_two_people_use_the_chat_in_a_browser():
    run_tests_of_the_chat("-m", "browser")
