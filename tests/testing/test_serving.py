"""Applications served within the process of their test."""

import asyncio
import contextlib
import http.client
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest
import websockets
from pyramid.response import Response
from sqlalchemy import create_engine, text
from sqlalchemy.pool import StaticPool
from websockets.sync.client import connect

from pyramid_asgi_consumers.exceptions import LifespanError
from pyramid_asgi_consumers.testing import TestApp, background, serving
from tests.apps.liveapp import Application, get
from tests.support.browser import browsing

SERVERS = ["daphne", "hypercorn", "uvicorn"]

each_server = pytest.mark.parametrize("server", SERVERS)


@each_server
def test_pages_and_websockets_of_the_very_application(server):
    application = Application()
    with serving(application.app, server) as live:
        assert application.events == ["started"]
        assert live.url == f"http://127.0.0.1:{live.port}"
        assert get(live.url).startswith("page asgi-view-")
        application.text = "patched"
        assert get(f"{live.url}/").startswith("patched")
        assert get(f"{live.url}/state") == "state of the lifespan"
        with connect(f"{live.websocket_url}/echo", origin=live.url) as websocket:
            websocket.send("hello")
            assert websocket.recv(20) == "hello"
    assert application.events == ["started", "websocket left", "stopped"]
    with pytest.raises(OSError):
        get(live.url)


@each_server
def test_what_is_open_at_the_end_is_ended(server):
    application = Application()
    with contextlib.ExitStack() as stack:
        with serving(application.app, server) as live:
            idle = http.client.HTTPConnection("127.0.0.1", live.port, timeout=20)
            stack.callback(idle.close)
            idle.request("GET", "/")
            idle.getresponse().read()
            websocket = stack.enter_context(connect(f"{live.websocket_url}/echo"))
            websocket.send("hello")
            assert websocket.recv(20) == "hello"
            stream = stack.enter_context(urllib.request.urlopen(f"{live.url}/stream", timeout=20))
            assert stream.read(5) == b"first"
        assert application.events[0] == "started"
        assert set(application.events[1:3]) == {"websocket left", "stream left"}
        assert application.events[3:] == ["stopped"]
        with pytest.raises(websockets.ConnectionClosed):
            websocket.recv(20)
        with pytest.raises((OSError, http.client.HTTPException)):
            idle.request("GET", "/")
            idle.getresponse()


@each_server
def test_a_block_that_raises_stops_it_too(server):
    application = Application()
    with pytest.raises(ZeroDivisionError), serving(application.app, server):
        1 / 0  # noqa: B018
    assert application.events == ["started", "stopped"]


@each_server
def test_several_at_once_and_one_after_the_other(server):
    one, other = Application(), Application()
    other.text = "other"
    with serving(one.app, server) as first:
        with serving(other.app, server) as second:
            assert get(first.url).startswith("page")
            assert get(second.url).startswith("other")
            assert TestApp(one.app).get("/").text == "page MainThread"
        assert get(first.url).startswith("page")
    with serving(one.app, server) as third:
        assert get(third.url).startswith("page")
    assert one.events == ["started", "stopped"] * 2


def test_daphne_does_nothing_any_more_once_it_has_ended():
    with serving(Application().app, "daphne") as live:
        assert get(live.url).startswith("page")
    reactor = sys.modules["twisted.internet.reactor"]
    # It looks after its connections every second, and for their timeouts every two.
    looked = threading.Event()
    reactor.callFromThread(reactor.callLater, 2.1, looked.set)
    assert looked.wait(20)
    waiting = [getattr(call.func, "__self__", None) for call in reactor.getDelayedCalls()]
    assert [each for each in waiting if type(each).__name__ == "Daphne"] == []


def test_the_same_application_twice_at_once():
    application = Application()
    with serving(application.app) as first:
        with serving(application.app) as second:
            assert get(first.url).startswith("page")
            assert get(second.url).startswith("page")
        assert get(first.url).startswith("page")
    assert application.events == ["started", "started", "stopped", "stopped"]


def test_any_asgi_application():
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"plain"})

    with serving(app) as live:
        assert get(live.url) == "plain"


def test_a_database_in_memory_that_threads_share():
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    application = Application()

    def page(request):
        with engine.connect() as connection:
            return Response(connection.scalar(text("SELECT name FROM person")))

    application.page = page
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE person (name TEXT)"))
        connection.execute(text("INSERT INTO person VALUES ('anna')"))
    with serving(application.app) as live:
        assert get(live.url) == "anna"
    engine.dispose()


def failure(*args):
    """What ``serving`` raises."""
    with pytest.raises(BaseException) as raised, contextlib.ExitStack() as stack:
        stack.enter_context(serving(*args))
    return raised.value


def test_what_cannot_be_served():
    error = failure(Application().app, "granian")
    assert isinstance(error, ValueError)
    assert str(error) == (
        'serving: server must be one of "daphne", "hypercorn", "uvicorn", not \'granian\''
    )
    error = failure(Application().app.wsgi_app)
    assert isinstance(error, TypeError)
    assert "must be an ASGI application, as config.make_asgi_app() returns it, not <pyr" in str(
        error
    )


def test_a_server_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    error = failure(Application().app)
    assert isinstance(error, ImportError)
    assert str(error) == ('serving needs uvicorn: pip install "pyramid_asgi_consumers[uvicorn]"')


@each_server
@pytest.mark.parametrize("phase", ["startup", "shutdown"])
def test_an_application_that_does_not_start_or_stop(server, phase):
    class Context:
        async def __aenter__(self):
            if phase == "startup":
                raise LookupError("no database")

        async def __aexit__(self, *exc_info):
            raise LookupError("no database")

    entered = []
    with pytest.raises(LifespanError, match="LookupError: '?no database"):
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                serving(Application(lifespan=lambda registry: Context()).app, server)
            )
            stack.callback(entered.append, True)
    assert entered == ([] if phase == "startup" else [True])


# What takes too long.


class Endless:
    """A context that is never entered."""

    def __init__(self, began=lambda: None):
        self.began = began
        self.ended = False

    async def __aenter__(self):
        self.began()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True

    __aexit__ = None


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(background, "TIMEOUT", 0.5)


@each_server
def test_an_application_that_takes_too_long_to_start(impatient, server):
    context = Endless()
    error = failure(Application(lifespan=lambda registry: context).app, server)
    assert isinstance(error, TimeoutError)
    assert str(error) == "The application did not start within 0.5 s"
    assert context.ended


def test_an_application_that_takes_too_long_to_stop(impatient):
    @contextlib.asynccontextmanager
    async def lifespan(registry):
        lifespan.loop = asyncio.get_running_loop()
        lifespan.released = asyncio.Event()
        yield
        await lifespan.released.wait()

    before = set(threading.enumerate())
    with pytest.raises(TimeoutError, match="did not stop within 0.5 s; these .*Background._main"):
        with serving(Application(lifespan=lifespan).app):
            (thread,) = set(threading.enumerate()) - before
    lifespan.loop.call_soon_threadsafe(lifespan.released.set)
    thread.join(20)


@each_server
def test_a_consumer_that_has_to_be_cancelled_twice(server):
    application = Application()
    with contextlib.ExitStack() as stack:
        with serving(application.app, server) as live:
            stream = urllib.request.urlopen(f"{live.url}/stubborn", timeout=20)
            stack.enter_context(stream)
            assert stream.read(5) == b"first"
    assert "stopped" in application.events
    assert "stubborn left" in application.events


def test_an_interrupt_while_the_application_starts():
    class Interrupt(Exception):
        pass

    def interrupt(*args):
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.main_thread().ident
    context = Endless(lambda: signal.pthread_kill(thread, signal.SIGUSR1))
    try:
        error = failure(Application(lifespan=lambda registry: context).app)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert isinstance(error, Interrupt)
    assert context.ended


def test_an_interrupt_before_anything_runs():
    application = Application()

    def run(main, ended):
        raise InterruptedError

    beside = background.Background(application.app, None, None)
    with pytest.raises(InterruptedError):
        beside.start(run)
    beside.stop()
    beside.start(background.in_a_thread)
    beside.stop()
    assert application.events == []


@pytest.mark.parametrize("server", ["hypercorn", "uvicorn"])
def test_what_ends_the_server_is_raised_at_the_end(server):
    application = Application()
    with pytest.raises(SystemExit) as raised:
        with serving(application.app, server) as live:
            with pytest.raises((OSError, http.client.HTTPException)):
                get(f"{live.url}/exit")
    assert raised.value.code == 3
    assert application.events == ["started", "stopped"]


# Daphne's reactor.


SERVING = "from pyramid_asgi_consumers.testing import serving\n"


def ran(code):
    """What Python writes that runs ``code``."""
    code = "from tests.apps.liveapp import Application, get\n" + SERVING + code
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60
    )
    return result.stdout + result.stderr


def test_a_process_that_has_served_with_daphne_ends():
    code = "with serving(Application().app, 'daphne') as live: print(get(live.url))"
    assert ran(code) == "page asgi-view-1\n"


def test_a_reactor_that_has_stopped():
    code = """
import daphne.server
from twisted.internet import reactor

reactor.callWhenRunning(reactor.stop)
reactor.run()
with serving(Application().app, "daphne"):
    pass
"""
    assert ran(code).splitlines()[-1].startswith("twisted.internet.error.ReactorNotRestartable")


def test_a_reactor_that_somebody_else_runs():
    code = """
import daphne.server
from twisted.internet import reactor

def serve():
    try:
        with serving(Application().app, "daphne"):
            pass
    except RuntimeError as error:
        print(error)
    reactor.stop()

reactor.callWhenRunning(serve)
reactor.run()
"""
    expected = "serving: Daphne needs Twisted's reactor, which somebody else runs in this process\n"
    assert ran(code) == expected


# A browser.


PAGE = """
<!DOCTYPE html>
<p id="said"></p>
<script>
    const websocket = new WebSocket(location.href.replace("http", "ws") + "echo");
    websocket.onopen = () => websocket.send("hello");
    websocket.onmessage = event => document.getElementById("said").textContent = event.data;
    websocket.onclose = event => document.title = "closed with " + event.code;
</script>
"""


@pytest.mark.browser
@each_server
def test_a_browser_opens_a_page_and_a_websocket(server):
    application = Application()
    application.page = lambda request: Response(PAGE)
    with contextlib.ExitStack() as stack:
        with serving(application.app, server) as live:
            page = stack.enter_context(browsing(live.url))
            page.wait_for_function("document.getElementById('said').textContent == 'hello'")
        page.wait_for_function("document.title.startsWith('closed with')")
    assert application.events == ["started", "websocket left", "stopped"]
