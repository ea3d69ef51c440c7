"""``examples/echo.py``: served by Daphne, looked at in a browser."""

import pytest

from tests.browser import browsing
from tests.clients import HOST
from tests.servers import running

pytestmark = pytest.mark.browser

#: Resolves to the list on the page as soon as it has ``length`` items.
SHOWN = """new Promise((resolve) => {
  const list = document.querySelector("ul");
  const look = () => {
    const items = [...list.children].map((item) => item.textContent);
    if (items.length >= %d) resolve(items);
  };
  new MutationObserver(look).observe(list, {childList: true});
  look();
})"""
SAY = """{
  const form = document.querySelector("form");
  form.elements[0].value = %r;
  form.querySelector("button").click();
  form.elements[0].value;
}"""


def test_the_page_shows_what_its_websocket_echoes(tmp_path):
    with running("daphne", tmp_path, app="examples.echo:app") as server:
        with browsing(f"http://{HOST}:{server.port}/", tmp_path) as page:
            assert page.run("document.querySelector('h1').textContent") == "Echo"
            # Of the three messages that the page sends, Daphne 4.2.3 drops the empty one, of
            # its own as of others: tests/test_servers.py has the table.
            assert page.run(SHOWN % 2) == ["text: Hello, socket", "bytes: 1,2,3"]
            assert page.run(SAY % "typed by hand") == ""
            assert page.run(SHOWN % 3)[2:] == ["text: typed by hand"]
            assert page.run("socket.close(), 1") == 1
            assert page.run(SHOWN % 4)[3:] == ["closed"]


def test_the_page_shows_empty_text_where_the_server_passes_it(tmp_path):
    with running("uvicorn-sansio", tmp_path, app="examples.echo:app") as server:
        with browsing(f"http://{HOST}:{server.port}/", tmp_path) as page:
            expected = ["text: Hello, socket", "text: ", "bytes: 1,2,3"]
            assert page.run(SHOWN % 3) == expected
            with pytest.raises(AssertionError, match="ReferenceError: nothing is not defined"):
                page.run("nothing")


def test_a_missing_browser_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssertionError, match="needs a browser"):
        browsing("http://localhost/", tmp_path).__enter__()


def test_a_browser_that_does_not_start_is_a_failure(tmp_path, monkeypatch):
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\necho no display\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(AssertionError, match="Chromium does not start:\nno display"):
        browsing("http://localhost/", tmp_path).__enter__()
