"""Two people in Chromium, and a server that is restarted while they talk.

``pytest -m browser``. Where the environment names a folder, CHAT_SCREENSHOTS, pictures of the pages
are put there.
"""

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from chat.scripts.initialize_db import main as initialize

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parent.parent
DEADLINE = 20

expect.set_options(timeout=DEADLINE * 1000)

DESK = {"viewport": {"width": 1280, "height": 800}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}

#: Draws a plate of soup, since no photograph is at hand.
PHOTOGRAPH = """() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1200, height: 800 });
    const pen = canvas.getContext("2d");
    const disc = (colour, x, y, width, height = width) => {
        pen.fillStyle = colour;
        pen.beginPath();
        pen.ellipse(x, y, width, height, x, 0, 7);
        pen.fill();
    };
    pen.fillStyle = "#d8c7a3";
    pen.fillRect(0, 0, 1200, 800);
    disc("#f7f3ea", 600, 410, 310);
    disc("#d9772b", 600, 410, 250);
    disc("#e58b41", 565, 380, 170);
    for (let leaf = 0; leaf < 14; leaf++) {
        disc("#4c7a3f", 480 + (leaf * 53) % 240, 310 + (leaf * 97) % 200, 16, 7);
    }
    return canvas.toDataURL("image/jpeg", 0.85).split(",")[1];
}"""


class Server:
    """``pserve`` with the chat, which can be stopped and started again."""

    def __init__(self, directory):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://localhost:{self.port}"
        self.log = directory / "server.log"
        self.ini = directory / "browser.ini"
        text = (ROOT / "development.ini").read_text()
        for old, new in (
            ("localhost:6543", f"127.0.0.1:{self.port}"),
            ("chat.demo = true", "chat.demo = false"),
            ("asgi.revalidate = 20", "asgi.revalidate = 1"),
        ):
            assert old in text
            text = text.replace(old, new)
        self.ini.write_text(text)
        initialize([str(self.ini), "--password", "secret"])

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "pyramid.scripts.pserve", self.ini],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + DEADLINE
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}/login", timeout=DEADLINE) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(DEADLINE)


# One for all tests, which take another room each.
@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()
    logged = server.log.read_text()
    assert "Traceback" not in logged, logged


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium")
    assert path, "This test needs Debian's chromium"
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, server):
    """A function that opens the chat in a browser of its own."""

    @contextmanager
    def visit(**options):
        context = chromium.new_context(locale="en-GB", **options)
        context.set_default_timeout(DEADLINE * 1000)
        page = context.new_page()
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(server.url)
        yield page
        assert not errors
        context.close()

    return visit


def log_in(page, name):
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill("secret")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Rooms")


def say(page, text):
    page.get_by_role("textbox", name="Message").fill(text)
    page.keyboard.press("Enter")


def texts(page):
    """What the messages of the room say, as far as they are there."""
    return page.get_by_role("log").locator(".text")


def waiting(page):
    return page.get_by_role("list", name="About to be sent").get_by_role("listitem")


def opened(page):
    """The websockets that a page opens, one after the other."""
    sockets = []
    page.on("websocket", lambda socket: sockets.append(socket))
    return sockets


def photograph(page):
    data = base64.b64decode(page.evaluate(PHOTOGRAPH))
    return {"name": "soup.jpg", "mimeType": "image/jpeg", "buffer": data}


@pytest.fixture
def shoot(tmp_path):
    """A function that takes the pictures of a page."""
    folder = Path(os.environ.get("CHAT_SCREENSHOTS", tmp_path))

    def shoot(page, name):
        for scheme in "light", "dark":
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.screenshot(path=folder / f"{name}-{scheme}.png")

    return shoot


def test_two_people_talk_and_the_server_is_restarted(server, visit, shoot):
    with visit(**DESK) as ann, visit(**PHONE) as bob:
        shoot(ann, "login-desk")
        shoot(bob, "login-phone")
        log_in(ann, "ann")
        log_in(bob, "bob")
        ann.get_by_role("link", name="Kitchen").click()
        expect(ann.get_by_text("Nothing was said here yet.")).to_be_visible()
        here = ann.get_by_role("complementary", name="Here now").get_by_role("listitem")
        expect(here).to_have_text(["AAnn (you)"])
        shoot(ann, "empty-desk")

        # On the other page the number of what is unread grows, without a reload.
        kitchen = bob.get_by_role("link", name="Kitchen")
        expect(kitchen.get_by_text("unread")).to_be_hidden()
        say(ann, "Soup today? There are carrots left, and half a pumpkin.")
        expect(kitchen).to_contain_text("1 unread")
        say(ann, "I could start at eleven.")
        expect(kitchen).to_contain_text("2 unread")
        expect(bob).to_have_title("(2) Rooms – Chat")
        shoot(bob, "rooms-phone")

        kitchen.click()
        expect(bob.get_by_role("complementary")).to_contain_text("Bob (you)")
        expect(here).to_have_text(["AAnn (you)", "BBob"])
        say(bob, "Yes please. I bring the bread.")
        said = [
            "Soup today? There are carrots left, and half a pumpkin.",
            "I could start at eleven.",
        ]
        said.append("Yes please. I bring the bread.")
        for page in (ann, bob):
            expect(texts(page)).to_have_text(said)

        # A picture, which is made smaller on its way.
        ann.get_by_label("Add a picture").set_input_files(photograph(ann))
        expect(ann.get_by_role("img", name="The picture that you have chosen")).to_be_visible()
        say(ann, "Like this one.")
        said.append("Like this one.")
        picture = bob.get_by_role("img", name="A picture from Ann")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1200
        expect(texts(bob)).to_have_text(said)
        shoot(ann, "room-desk")
        shoot(bob, "room-phone")

        # Nobody serves: what is written waits, and says so.
        server.stop()
        for page in (ann, bob):
            expect(page.get_by_role("status")).to_contain_text("Offline")
        say(ann, "Are you on your way?")
        say(bob, "In ten minutes.")
        say(bob, "With the bread.")
        expect(waiting(ann)).to_have_count(1)
        expect(waiting(bob)).to_have_count(2)
        shoot(bob, "offline-phone")

        # All of it arrives, once, and everybody has all of it.
        server.start()
        for page in (ann, bob):
            expect(page.get_by_role("status")).to_be_hidden()
            expect(waiting(page)).to_have_count(0)
            expect(texts(page)).to_have_count(7)
        assert texts(ann).all_text_contents() == texts(bob).all_text_contents()
        later = texts(bob).all_text_contents()[4:]
        assert sorted(later) == ["Are you on your way?", "In ten minutes.", "With the bread."]
        assert later.index("In ten minutes.") < later.index("With the bread.")
        say(bob, "At the door.")
        for page in (ann, bob):
            expect(texts(page)).to_have_count(8)
            page.reload()
            expect(texts(page)).to_have_count(8)


def test_a_page_whose_connection_breaks_hears_each_message_once(visit):
    through, blocked = [], []

    def connect(route):
        if blocked:
            route.close(code=1013)
        else:
            route.connect_to_server()
            through.append(route)

    with visit(**DESK) as ann, visit(**PHONE) as bob:
        bob.route_web_socket(re.compile("/live"), connect)
        read = []
        bob.on("request", lambda request: read.append((request.method, request.url)))
        for page, name in (ann, "Ann"), (bob, "Bob"):
            log_in(page, name.lower())
            page.get_by_role("link", name="Garden").click()
            expect(page.get_by_role("complementary")).to_contain_text(f"{name} (you)")
        say(ann, "The peas are up.")
        expect(texts(bob)).to_have_text(["The peas are up."])

        blocked.append(True)
        through[-1].close(code=1001)
        expect(bob.get_by_role("status")).to_contain_text("Offline")
        said = ["The peas are up.", "So are the snails.", "More snails than peas."]
        for text in said[1:]:
            say(ann, text)
        expect(texts(ann)).to_have_text(said)
        expect(texts(bob)).to_have_text(said[:1])

        blocked.clear()
        expect(texts(bob)).to_have_text(said)
        expect(bob.get_by_role("status")).to_be_hidden()
        # The channel remembered them: no rows were read.
        assert not [url for method, url in read if url.endswith("/messages")]


def test_who_logs_out_is_put_out_of_every_tab_and_who_is_put_out_hears_why(server, visit, shoot):
    with visit(**DESK) as bob, visit(**PHONE) as eve:
        log_in(bob, "bob")
        shoot(bob, "rooms-desk")
        other = bob.context.new_page()
        sockets = opened(other)
        other.goto(f"{server.url}/rooms/garden")
        expect(other.get_by_role("complementary")).to_contain_text("Bob (you)")
        bob.get_by_role("button", name="Log out").click()
        for page in (bob, other):
            expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
        assert len(sockets) == 1
        # Either login may be the first: the other has what it needs then.
        log_in(other, "bob")
        log_in(bob, "bob")

        sockets = opened(bob)
        bob.get_by_role("link", name="Workshop").click()
        expect(bob.get_by_role("complementary")).to_contain_text("Bob (you)")
        log_in(eve, "eve")
        eve.get_by_role("link", name="Workshop").click()
        expect(eve.get_by_role("complementary")).to_contain_text("Eve (you)")
        say(eve, "Bob, it is enough.")
        for page in (bob, eve):
            expect(texts(page)).to_have_text(["Bob, it is enough."])
        eve.get_by_role("link", name="Moderate").click()
        eve.get_by_role("button", name="Put out Bob").click()
        expect(eve.get_by_role("main")).to_contain_text("Was put out")
        shoot(eve, "people-phone")
        expect(bob.get_by_role("main")).to_contain_text("You may not go in there.")
        # One more handshake has decided.
        assert len(sockets) == 2
        shoot(bob, "forbidden-desk")
        # On his other page there is no way to it any more.
        expect(other.get_by_role("link", name="Workshop")).to_be_hidden()
