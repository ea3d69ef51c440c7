"""``request.channels``, its transactions, and how an application is configured to have channels."""

import asyncio
import http.client
import os
import socket
import subprocess
import sys
import threading

import pytest
import transaction
from celery import Celery
from pyramid.config import Configurator
from pyramid.exceptions import ConfigurationConflictError, ConfigurationError
from pyramid.paster import bootstrap
from pyramid.request import Request, apply_request_extensions
from pyramid.response import Response
from pyramid_retry import RetryableException
from transaction.interfaces import NoTransaction
from waitress.server import create_server
from webtest import TestApp

from pyramid_asgi_consumers.channels import Channels, channels_of
from pyramid_asgi_consumers.channels.memory import MemoryBackend
from pyramid_asgi_consumers.channels.redis import RedisBackend
from pyramid_asgi_consumers.exceptions import PublishRefused
from pyramid_asgi_consumers.testing import TestApp as ASGITestApp
from tests.support.redis_server import free_port

SECONDS = 20
EXPLICIT = {"tm.manager_hook": "pyramid_tm.explicit_manager"}


class Recorder(MemoryBackend):
    """The memory backend, and a note of what was published in which call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def publish_many(self, messages):
        self.calls.append([(name, payload.decode()) for name, payload in messages])
        return super().publish_many(messages)


@pytest.fixture(params=["thread-local", "explicit"])
def settings(request):
    return EXPLICIT if request.param == "explicit" else {}


@pytest.fixture(autouse=True)
def no_transaction():
    transaction.abort()
    yield
    transaction.abort()


def configured(view, settings, *includes):
    config = Configurator(settings=dict(settings))
    for include in ("pyramid_asgi_consumers", *includes):
        config.include(include)
    backend = Recorder()
    config.set_channels_backend(backend)
    if view is not None:
        config.add_view(view)
    return config, backend


def get(view, settings, *includes, status=None):
    """Call the view; return what was published."""
    config, backend = configured(view, settings, *(includes or ("pyramid_tm",)))
    TestApp(config.make_wsgi_app()).get("/", status=status)
    return backend.calls


def test_what_a_view_publishes_goes_when_the_transaction_has_committed(settings):
    happened = []

    def view(request):
        request.channels.publish("a", {"number": 1})
        request.channels.publish("b", 2)
        request.channels.publish("a", 3)
        hooks = request.tm.get().getAfterCommitHooks()
        assert len(list(hooks)) == 1
        request.tm.get().addBeforeCommitHook(lambda: happened.extend(calls))
        return Response()

    config, backend = configured(view, settings, "pyramid_tm")
    calls = backend.calls
    TestApp(config.make_wsgi_app()).get("/")
    assert happened == []
    assert calls == [[("a", 'j{"number":1}'), ("b", "j2"), ("a", "j3")]]


def test_nothing_goes_when_the_view_fails(settings):
    def view(request):
        request.channels.publish("a", 1)
        raise LookupError

    with pytest.raises(LookupError):
        get(view, settings)
    config, backend = configured(view, settings, "pyramid_tm")
    config.add_exception_view(lambda request: Response(status=500), context=LookupError)
    TestApp(config.make_wsgi_app()).get("/", status=500)
    assert backend.calls == []


def test_nothing_goes_when_the_transaction_is_doomed(settings):
    def view(request):
        request.channels.publish("a", 1)
        request.tm.doom()
        return Response()

    assert get(view, settings) == []


def test_nothing_goes_when_the_commit_is_vetoed(settings):
    def view(request):
        request.channels.publish("a", 1)
        return Response(status=400)

    veto = {"tm.commit_veto": "pyramid_tm.default_commit_veto"}
    assert get(view, {**settings, **veto}, status=400) == []


class Failing:
    """A data manager whose commit fails."""

    transaction_manager = None

    def sortKey(self):
        return "failing"

    def abort(self, transaction):
        """There is nothing to abort."""

    tpc_begin = commit = tpc_abort = abort

    def tpc_vote(self, transaction):
        raise LookupError


def test_nothing_goes_when_the_commit_fails(settings):
    def view(request):
        request.channels.publish("a", 1)
        request.tm.get().join(Failing())
        return Response()

    with pytest.raises(LookupError):
        get(view, settings)
    config, backend = configured(view, settings, "pyramid_tm")
    config.add_exception_view(lambda request: Response(status=500), context=LookupError)
    TestApp(config.make_wsgi_app()).get("/", status=500)
    assert backend.calls == []


def test_a_savepoint_takes_nothing_back(settings):
    def view(request):
        savepoint = request.tm.savepoint(optimistic=True)
        request.channels.publish("a", 1)
        savepoint.rollback()
        return Response()

    assert get(view, settings) == [[("a", "j1")]]


def test_a_request_that_is_retried_publishes_once(settings):
    attempts = []

    def view(request):
        request.channels.publish("a", len(attempts))
        attempts.append(request)
        if len(attempts) < 3:
            raise RetryableException
        return Response()

    includes = ("pyramid_tm", "pyramid_retry")
    assert get(view, {**settings, "retry.attempts": "3"}, *includes) == [[("a", "j2")]]


def test_publish_now_waits_for_no_transaction(settings):
    def view(request):
        request.channels.publish("a", 1)
        event_id = request.channels.publish_now("a", 2)
        assert isinstance(event_id, str)
        return Response()

    assert get(view, settings) == [[("a", "j2")], [("a", "j1")]]


def test_what_another_hook_publishes_goes_too(settings):
    def view(request):
        request.tm.get().addAfterCommitHook(lambda success: request.channels.publish("a", 0))
        request.channels.publish("a", 1)
        request.tm.get().addAfterCommitHook(lambda success: request.channels.publish("a", 2))
        return Response()

    assert get(view, settings) == [[("a", "j1"), ("a", "j0")], [("a", "j2")]]


class Fails:
    """A resource whose commit fails."""

    transaction_manager = None

    def abort(self, transaction):
        pass

    def tpc_begin(self, transaction):
        pass

    def commit(self, transaction):
        raise LookupError("full")

    def tpc_abort(self, transaction):
        pass

    def sortKey(self):
        return "fails"


def test_what_the_hooks_of_a_failed_commit_publish_goes(settings):
    config, backend = configured(None, settings, "pyramid_tm")
    request = request_of(config)

    def reports(name):
        return lambda success: request.channels.publish(name, success)

    for _ in range(2):
        with pytest.raises(LookupError), request.tm:
            transaction = request.tm.get()
            transaction.join(Fails())
            transaction.addAfterCommitHook(reports("before"))
            request.channels.publish("lost", 1)
            transaction.addAfterCommitHook(reports("behind"))
        request.tm.abort()
    assert backend.calls == [[("before", "jfalse")], [("behind", "jfalse")]] * 2


def test_what_is_published_after_a_failed_savepoint_is_taken_back(settings):
    config, backend = configured(None, settings, "pyramid_tm")
    request = request_of(config)
    request.tm.begin()
    request.tm.get().join(Fails())
    with pytest.raises(TypeError):
        request.tm.savepoint()
    request.channels.publish("a", 1)
    request.tm.abort()
    assert backend.calls == []


def test_publish_now_is_for_the_hooks_of_an_abort(settings):
    config, backend = configured(None, settings, "pyramid_tm")
    request = request_of(config)
    request.tm.begin()
    request.tm.get().addAfterAbortHook(request.channels.publish, ("a", 1))
    request.tm.get().addAfterAbortHook(request.channels.publish_now, ("a", 2))
    request.tm.abort()
    assert backend.calls == [[("a", "j2")]]


def test_without_transactions_it_goes_at_once():
    def view(request):
        request.channels.publish("a", 1)
        return Response()

    assert get(view, {}, "pyramid_retry") == [[("a", "j1")]]


def begun(manager):
    class Synchronizer:
        transactions = 0

        def newTransaction(self, transaction):
            self.transactions += 1

    synchronizer = Synchronizer()
    manager.registerSynch(synchronizer)
    manager.unregisterSynch(synchronizer)
    return synchronizer.transactions


def request_of(config):
    request = Request.blank("/")
    config.commit()
    request.registry = config.registry
    apply_request_extensions(request)
    return request


def test_asking_begins_no_transaction(settings):
    config, backend = configured(None, settings, "pyramid_tm")
    request = request_of(config)
    request.channels.publish("a", 1)
    assert backend.calls == [[("a", "j1")]]
    assert begun(request.tm) == 0
    if settings:
        with pytest.raises(NoTransaction):
            request.tm.get()


def test_a_script_publishes_when_its_transaction_commits(settings):
    config, backend = configured(None, settings, "pyramid_tm")
    request = request_of(config)
    with request.tm:
        assert begun(request.tm) == 1
        request.channels.publish("a", 1)
        assert backend.calls == []
    assert backend.calls == [[("a", "j1")]]
    with pytest.raises(LookupError), request.tm:
        request.channels.publish("a", 2)
        raise LookupError
    request.channels.publish("a", 3)
    assert backend.calls == [[("a", "j1")], [("a", "j3")]]


def app(global_config, **settings):
    config = Configurator(settings=settings)
    config.include("pyramid_asgi_consumers")
    config.include("pyramid_tm")

    def view(request):
        request.channels.publish("a", "from a view")
        return Response()

    config.add_view(view)
    return config.make_wsgi_app()


INI = f"""
[app:main]
use = call:{__name__}:app
asgi.channels = {{url}}
tm.manager_hook = pyramid_tm.explicit_manager
"""
SAVE = "tests.apps.celeryapp.save"


async def first(channels, publish):
    """The data of the first event after ``publish`` was called, in a thread."""
    async with channels.subscribe("a") as events:
        await asyncio.to_thread(publish)
        return (await asyncio.wait_for(events.__anext__(), SECONDS)).data


@pytest.fixture
async def subscriber(redis_server):
    backend = RedisBackend(redis_server.url)
    yield Channels(backend)
    await backend.aclose()


@pytest.mark.redis
async def test_a_script_reaches_other_processes(redis_server, subscriber, tmp_path):
    ini = tmp_path / "script.ini"
    ini.write_text(INI.format(url=redis_server.url))

    def script():
        with bootstrap(str(ini)) as env, env["request"].tm:
            env["request"].channels.publish("a", "from a script")

    assert await first(subscriber, script) == "from a script"


@pytest.mark.redis
async def test_a_wsgi_server_reaches_other_processes(redis_server, subscriber):
    wsgi_app = app({}, **{"asgi.channels": redis_server.url})
    server = create_server(wsgi_app, host="127.0.0.1", port=free_port())
    thread = threading.Thread(target=server.run)
    thread.start()

    def get():
        connection = http.client.HTTPConnection("127.0.0.1", server.effective_port, timeout=9)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()

    try:
        assert await first(subscriber, get) == "from a view"
    finally:
        server.pull_trigger()
        server.trigger.pull_trigger(server.close)
        await asyncio.to_thread(thread.join)


@pytest.fixture
def closed_port():
    """A port that refuses connections, held so that nobody else comes to listen there."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_failure_after_the_commit_is_logged_and_the_response_stands(caplog, closed_port):
    def view(request):
        with pytest.raises(PublishRefused, match="cannot be reached"):
            request.channels.publish_now("news", 0)
        request.channels.publish("news", 1)
        request.channels.publish("talk", 2)
        return Response()

    config = Configurator(settings={"asgi.channels": f"redis://127.0.0.1:{closed_port}/0"})
    config.include("pyramid_asgi_consumers")
    config.include("pyramid_tm")
    config.add_view(view)
    TestApp(config.make_wsgi_app()).get("/", status=200)
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("Not published on 'news'") and line.endswith("(2 of 2 events)")


# On an event loop.


async def test_the_synchronous_methods_name_the_awaitable_ones():
    request = request_of(configured(None, {})[0])
    with pytest.raises(RuntimeError, match=r"await request\.channels\.apublish"):
        request.channels.publish("a", 1)
    with pytest.raises(RuntimeError, match=r"await .*channels\.publish"):
        request.channels.publish_now("a", 1)


async def test_an_async_view_publishes_at_once_without_a_transaction():
    config, backend = configured(None, {})
    request = request_of(config)
    channels = channels_of(config.registry)
    async with channels.subscribe("a") as events:
        await request.channels.apublish("a", 1)
        assert (await events.__anext__()).data == 1


async def test_an_async_view_joins_the_transaction():
    config, backend = configured(None, EXPLICIT, "pyramid_tm")
    request = request_of(config)
    published = threading.Event()
    threads = []
    publish_many = backend.publish_many

    def noted(messages):
        threads.append(threading.current_thread())
        results = publish_many(messages)
        published.set()
        return results

    backend.publish_many = noted
    with request.tm:
        await request.channels.apublish("a", 1)
        await request.channels.apublish("b", 2)
        assert backend.calls == []
    # The commit was on the loop's thread, which publishing must not block.
    assert await asyncio.to_thread(published.wait, SECONDS)
    assert threading.current_thread() not in threads
    assert backend.calls == [[("a", "j1"), ("b", "j2")]]


@pytest.mark.parametrize("name, content, error", [("", 1, ValueError), ("a", {1}, TypeError)])
async def test_bad_arguments_are_refused_before_anything_is_sent(name, content, error):
    config, backend = configured(None, {})
    request = request_of(config)
    with pytest.raises(error):
        await request.channels.apublish(name, content)

    def publish():
        for method in request.channels.publish, request.channels.publish_now:
            with pytest.raises(error):
                method(name, content)

    await asyncio.to_thread(publish)
    assert backend.calls == []


# Configuration.


def made(settings):
    config = Configurator(settings=settings)
    config.include("pyramid_asgi_consumers")
    app = config.make_asgi_app()
    return channels_of(app.registry).backend


def test_the_memory_backend_is_the_default():
    backend = made({})
    assert isinstance(backend, MemoryBackend)
    assert (backend.history, backend.expiry) == (0, 86400)


def test_the_settings_reach_the_backend():
    settings = {
        "asgi.channels": "redis://user:secret@localhost:1/3",
        "asgi.channels.history": "10",
        "asgi.channels.timeout": "0.5",
        "asgi.channels.expiry": "60",
        "asgi.channels.prefix": "own:",
    }
    backend = made(settings)
    assert isinstance(backend, RedisBackend)
    assert (backend.history, backend.timeout, backend.expiry) == (10, 0.5, 60)
    assert backend.keys.stream("a") == b"own:stream:a"
    assert backend.keys.redis_channel("a") == b"own:3:a"


def test_a_setting_may_be_changed_after_the_include(config):
    config.registry.settings["asgi.channels.history"] = 5
    assert channels_of(config.make_asgi_app().registry).backend.history == 5


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"asgi.channels": "amqp://x"}, "memory://, redis://, rediss://, unix://, not 'amqp://x'"),
        ({"asgi.channels": "redis"}, "not 'redis'"),
        ({"asgi.channels": 7}, "not 7"),
        ({"asgi.channels": "memory://x"}, "not 'memory://x'"),
        ({"asgi.channels": "redis://localhost/zero"}, "'zero'"),
        ({"asgi.channels": "redis://localhost:port/"}, "port"),
        ({"asgi.channels": "redis://localhost/?nothing=1"}, "nothing"),
        ({"asgi.channels.history": "many"}, "asgi.channels.history .* not 'many'"),
        ({"asgi.channels.history": -1}, "at least 0 and at most 1000000000, not -1"),
        ({"asgi.channels.history": 10**30}, "asgi.channels.history .* not 10"),
        ({"asgi.channels.expiry": 10**30}, "asgi.channels.expiry .* not 10"),
        ({"asgi.channels.timeout": "0"}, "seconds above 0 and at most 1000000, not '0'"),
        ({"asgi.channels.timeout": "99999999999999"}, "asgi.channels.timeout .* not '9"),
        ({"asgi.channels.timeout": "nan"}, "not 'nan'"),
        ({"asgi.channels.expiry": "1.5"}, "asgi.channels.expiry .* not '1.5'"),
    ],
)
def test_a_bad_setting_is_named(settings, named):
    with pytest.raises(ConfigurationError, match=named):
        made(settings)


def test_redis_without_the_extra_names_the_pip_command(monkeypatch):
    for name in [*sys.modules]:
        if name.startswith("pyramid_asgi_consumers.channels.redis"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r'pip install "pyramid_asgi_consumers\[redis\]"'):
        made({"asgi.channels": "redis://localhost/0"})


own_backend = Recorder()


def test_a_backend_of_ones_own_comes_before_the_setting():
    config = Configurator(settings={"asgi.channels": "redis://localhost/0"})
    config.include("pyramid_asgi_consumers")
    config.set_channels_backend(f"{__name__}.own_backend")
    app = config.make_asgi_app()
    assert channels_of(app.registry).backend is own_backend
    (entry,) = config.introspector.get_category("asgi channels")
    assert entry["introspectable"]["backend"] is own_backend


def test_a_backend_without_a_method_is_named(config):
    with pytest.raises(
        ConfigurationError, match=r"set_channels_backend: backend [\s\S]*publish_many"
    ):
        config.set_channels_backend(object())


def test_two_backends_conflict(config):
    config.set_channels_backend(Recorder())
    config.set_channels_backend(Recorder())
    with pytest.raises(ConfigurationConflictError):
        config.make_asgi_app()


async def test_the_backend_is_closed_when_the_server_stops(config):
    closed = []

    class Closing(Recorder):
        async def aclose(self):
            closed.append(self)

    backend = Closing()
    config.set_channels_backend(backend)
    app = config.make_asgi_app()
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive():
        assert not closed
        return messages.pop(0)

    async def send(message):
        assert message["type"].endswith("complete")

    await app({"type": "lifespan"}, receive, send)
    assert closed == [backend]


# Through the whole application.


async def room(websocket):
    async with channels_of(websocket.registry).subscribe("room") as events:
        await websocket.accept()
        async for event in events:
            await websocket.send(event.json)


@pytest.mark.parametrize("backend", ["memory", pytest.param("redis", marks=pytest.mark.redis)])
def test_a_view_reaches_a_websocket(backend, request):
    url = "memory://" if backend == "memory" else request.getfixturevalue("redis_server").url

    def view(request):
        request.channels.publish("room", {"text": "hello"})
        return Response()

    config = Configurator(settings={"asgi.channels": url, **EXPLICIT})
    config.include("pyramid_asgi_consumers")
    config.include("pyramid_tm")
    config.add_view(view)
    config.add_websocket("/room", room)
    with ASGITestApp(config.make_asgi_app()) as testapp:
        with testapp.websocket("/room") as websocket:
            testapp.get("/")
            assert websocket.receive_json() == {"text": "hello"}


@pytest.mark.redis
async def test_a_celery_worker_reaches_other_processes(redis_server, subscriber, tmp_path):
    """Its forked processes publish side by side; what a failed task published is taken back."""
    ini = tmp_path / "celery.ini"
    ini.write_text(INI.format(url=redis_server.url))
    environ = {**os.environ, "BROKER": redis_server.url, "INI": str(ini)}
    command = ["celery", "-A", "tests.apps.celeryapp", "worker"]
    command += ["--concurrency", "2", "-l", "WARNING", "--without-mingle"]
    log = tmp_path / "celery.log"
    async with subscriber.subscribe("a") as events:
        with log.open("w") as output:
            worker = subprocess.Popen(
                [sys.executable, "-m", *command], env=environ, stdout=output, stderr=output
            )
        try:
            parent, text = (await asyncio.wait_for(events.__anext__(), 60)).data
            assert (parent, text) == (worker.pid, "parent")
            tasks = Celery(broker=redis_server.url)
            sent = [f"task {number}" for number in range(20)]
            for text in sent:
                await asyncio.to_thread(tasks.send_task, SAVE, ["lost", True])
                await asyncio.to_thread(tasks.send_task, SAVE, [text])
            got = [await asyncio.wait_for(events.__anext__(), 60) for _ in sent]
        finally:
            worker.terminate()
            assert worker.wait(60) == 0, log.read_text()
    pids, texts, positions = zip(*(event.data for event in got), strict=True)
    assert sorted(texts) == sorted(sent)
    assert parent not in pids
    for event, position in zip(got, positions, strict=True):
        assert position < event.id
