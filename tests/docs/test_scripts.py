"""The scripts of the recipes, and of who comes from elsewhere, in Chromium."""

import importlib

import pytest
from playwright.sync_api import expect

from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.testing import serving
from tests.support.browser import browsing
from tests.support.clients import DEADLINE
from tests.support.pages import blocks, run_block
from tests.support.project import Message, Room

pytestmark = pytest.mark.browser

expect.set_options(timeout=DEADLINE * 1000)


def run_script(page, name, before, after=""):
    """Run the block of ``name`` in ``page``, after ``before``, which says what the block uses."""
    ((script, _),) = blocks(name, "javascript")
    page.evaluate(f"() => {{ {before}\n{script}\n{after} }}")


def test_the_pages_hear_what_their_scripts_listen_for(config, directory):
    config.set_channels_backend(MemoryBackend(history=10))
    names = {"Message": Message, "Room": Room}
    run_block("coming_from/socketio", config=config, **names)
    model = run_block("recipes/language_model", **names)
    config.add_event_stream("/answer", model.answer, permission="view", factory=model.Members)
    reports = importlib.import_module("reports")
    config.include(reports)
    app = config.make_asgi_app()
    # In place of a worker, in this process.
    reports.tasks.registry = config.registry
    reports.tasks.conf.task_always_eager = True
    with serving(app, "uvicorn") as server, browsing(server.url) as page:
        page.request.post(f"{server.url}/login", form={"name": "ann"})
        check_socketio(page)
        check_language_model(page)
        check_celery(page, server)


def shows(names):
    """Functions of these names that show in the page what they are given."""
    return "\n".join(
        f"const {name} = (text) => {{ document.body.append('{name}: ' + text + '. ') }};"
        for name in names
    )


def check_socketio(page):
    expect_text = expect(page.locator("body")).to_contain_text
    before = "const url = 'ws://' + location.host + '/rooms/a';" + shows(["show", "hint"])
    run_script(page, "coming_from/socketio", before, "window.emit = emit;")
    expect_text("show: ann is here.")
    page.evaluate("emit('typing')")
    expect_text("hint: ann writes ….")
    page.evaluate("emit('say', { text: 'hello' })")
    expect_text("show: ann: hello.")


def check_language_model(page):
    before = (
        "const question = 'why & how?', output = document.createElement('output');"
        "document.body.append(output);"
    )
    run_script(page, "recipes/language_model", before, "window.source = source;")
    expect(page.locator("output")).to_have_text("You have asked: why & how? ")
    # It does not ask again.
    page.wait_for_function("source.readyState == EventSource.CLOSED")


def check_celery(page, server):
    url = page.request.post(f"{server.url}/reports").json()["url"]
    # What the bar has shown is known on the next page.
    before = f"""
        const url = {url!r};
        const bar = {{ set value(done) {{ sessionStorage[done] = `${{done}} of ${{this.max}}` }} }};
    """
    run_script(page, "recipes/celery", before)
    page.wait_for_url("**/reports/report-*.pdf")
    shown = page.evaluate("Object.values(sessionStorage).sort()")
    assert shown == ["1 of 3", "2 of 3", "3 of 3"]
