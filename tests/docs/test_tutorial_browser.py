"""The tutorial's last step and its project in Chromium: two people, and a server that restarts."""

import re
from functools import partial

import pytest
from playwright.sync_api import expect

from tests.docs.test_tutorial import STEPS
from tests.support.browser import browsing
from tests.support.clients import DEADLINE, HOST
from tests.support.pages import PROJECT
from tests.support.servers import free_port, started

pytestmark = pytest.mark.browser

expect.set_options(timeout=DEADLINE * 1000)

STEP = (STEPS[-1], {"ann": "apple", "ben": "banana"}, "from app import main")
TUTORIAL = PROJECT / "examples" / "tutorial"
WHOLE = (TUTORIAL, {"ann": "ann", "ben": "ben"}, "from tutorial import main")

LAUNCHER = """{line}

settings = {{
    "sqlalchemy.url": "sqlite:///{directory}/test.sqlite",
    "tutorial.secret": "secret",
    "tutorial.users": "ann ben",
    "asgi.channels.history": "10",
}}
app = main({{}}, **settings)
"""


def logged_in(page, passwords, name):
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(passwords[name])
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    return page


def say(page, text):
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()


@pytest.mark.parametrize(("folder", "passwords", "line"), [STEP, WHOLE], ids=["step", "project"])
def test_two_talk_over_a_restart_and_a_logout_is_everywhere(folder, passwords, line, tmp_path):
    (tmp_path / "launcher.py").write_text(LAUNCHER.format(line=line, directory=tmp_path))
    port = free_port()
    url = f"http://{HOST}:{port}/"
    command = ["uvicorn", "--host", HOST, "--port", str(port), "launcher:app"]
    environ = {"PYTHONPATH": f"{tmp_path}:{folder}"}
    serve = partial(started, "uvicorn", command, port, tmp_path, environ)
    with browsing("about:blank") as nowhere:
        browser = nowhere.context.browser
        with serve():
            ann, ben = (browser.new_context().new_page() for _ in range(2))
            for page in (ann, ben):
                page.set_default_timeout(DEADLINE * 1000)
                page.goto(url)
            logged_in(ann, passwords, "ann")
            logged_in(ben, passwords, "ben")
            said = ben.get_by_role("listitem")
            say(ann, "hello <b>")
            expect(said).to_have_text([re.compile("^ann:? hello <b>$")])
        expect(ann.get_by_role("button", name="Send")).to_be_disabled()
        with serve():
            expect(ann.get_by_role("button", name="Send")).to_be_enabled()
            say(ann, "again")
            # The second is there once, whether it came by the page or by the socket.
            expect(said).to_have_text([re.compile("hello <b>$"), re.compile("again$")])
            other_tab = ann.context.new_page()
            other_tab.goto(url)
            expect(other_tab.get_by_role("listitem")).to_have_count(2)
            ann.get_by_role("button", name="Log out").click()
            expect(other_tab.get_by_role("heading")).to_have_text("Log in")
            expect(ben.get_by_role("button", name="Send")).to_be_enabled()
