"""The files of ``docs/deploy``, run as they are but for paths, users and ports."""

import hashlib
import http.client
import itertools
import json
import os
import re
import select
import signal
import subprocess
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import InvalidStatus

from pyramid_asgi_consumers.testing.events import EventParser
from tests.support.clients import DEADLINE
from tests.support.sent import MIB, blocks
from tests.support.servers import PROJECT, wait_until
from tests.support.sites import FILES, activated, deployed, fill_in_units
from tests.support.sites import site as site_of

SERVERS = ("uvicorn", "daphne")

pytestmark = pytest.mark.deployment


@pytest.fixture(scope="module", params=SERVERS)
def site(request, tmp_path_factory, redis_server):
    environ = {"CHANNELS": redis_server.url}
    directory = tmp_path_factory.mktemp(request.param)
    with deployed(request.param, directory, environ=environ) as site:
        yield site


@pytest.mark.parametrize("path", sorted(FILES.iterdir()), ids=lambda path: path.name)
def test_the_page_explains_each_line(path):
    page = (PROJECT / "docs" / "deployment.rst").read_text()
    explained = "\n".join(re.findall(r"``([^`]+)``", page))
    names = re.findall(r"^\s*(\w+)(?:[ =].*)?[={;]?$| (--?[a-z][\w-]*)", path.read_text(), re.M)
    for name in filter(None, itertools.chain(*names)):
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", explained), f"{path.name}: {name}"


def echoes(websocket):
    websocket.send("hello")
    return websocket.recv(DEADLINE) == "hello"


def login(site, user):
    """The headers of someone who has logged in."""
    cookie = site.ask(f"/login?user={user}").headers["Set-Cookie"]
    assert "; secure;" in cookie
    return {"Cookie": cookie.partition(";")[0]}


def test_a_page(site):
    response = site.ask("/home")
    assert (response.status, response.body) == (200, b"A Pyramid page")


def test_plain_http_is_sent_to_https(site):
    connection = http.client.HTTPConnection("127.0.0.1", site.plain_port, timeout=DEADLINE)
    connection.request("GET", "/home?a=b")
    with connection.getresponse() as response:
        assert response.status == 301
        assert response.headers["Location"] == "https://127.0.0.1/home?a=b"
    connection.close()


def test_messages_are_echoed(site):
    with site.websocket("/ws", origin=site.origin) as websocket:
        assert echoes(websocket)


def test_a_page_of_another_origin_opens_no_websocket(site):
    # The latter is another port.
    for origin in ("https://evil.example", "https://127.0.0.1"):
        with pytest.raises(InvalidStatus) as refused:
            site.websocket("/ws", origin=origin).__enter__()
        assert refused.value.response.status_code == 403


def test_a_guarded_websocket_opens_after_login(site):
    with pytest.raises(InvalidStatus) as refused:
        site.websocket("/ws/who").__enter__()
    assert refused.value.response.status_code == 403
    headers = login(site, "alice")
    with site.websocket("/ws/who", origin=site.origin, additional_headers=headers) as websocket:
        answer = json.loads(websocket.recv(DEADLINE))
    assert answer["userid"] == "alice"
    # Daphne tells consumers no scheme.
    assert answer["scheme"] == ("http" if site.name == "daphne" else "https")


def test_what_nginx_tells_the_application(site):
    forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "ftp"}
    assert site.ask("/environ", headers=forged).json == {
        "SCRIPT_NAME": "",
        "PATH_INFO": "/environ",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_CONNECTION": "close",
        "HTTP_UPGRADE": None,
        "scheme": "https",
        "url": f"{site.origin}/environ",
    }


def test_an_upload_of_20_mib(site):
    content = b"".join(blocks())
    assert len(content) == 20 * MIB
    response = site.ask("/upload", method="POST", body=content)
    assert response.body.decode() == hashlib.sha256(content).hexdigest()


def test_an_upload_beyond_the_limit_is_refused_by_nginx(site):
    with site.connection() as connection:
        connection.putrequest("POST", "/upload")
        connection.putheader("Content-Length", str(2**30 + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413


def test_the_chunks_of_a_download_arrive_as_they_are_made(site):
    until = site.directory / "until"
    with site.connection() as connection:
        connection.request("GET", f"/stream?until={until}")
        with connection.getresponse() as response:
            assert response.readline() == b"first\n"
            until.touch()
            assert response.read() == b"second\n"
    until.unlink()


def test_what_a_process_publishes_reaches_the_websockets_of_another(site):
    with site.websocket("/ws/room") as websocket:
        own = int(websocket.recv(DEADLINE))
        published = []

        def by_another():
            published.append(int(site.ask("/publish").body))
            return published[-1] != own

        wait_until(by_another, "a request to the other process", site)
        assert [int(websocket.recv(DEADLINE)) for _ in published] == published


def test_events_arrive_as_they_are_sent_and_who_leaves_is_noticed(site):
    left = site.directory / "left"
    with site.connection() as connection:
        connection.request("GET", site.prefix + "/news", headers={"X-Left": str(left)})
        response = connection.getresponse()
        parser = EventParser()
        while not parser.last_event_id:
            parser.feed(response.read1(1000))
        for _ in range(3):
            published = int(site.ask("/publish").body)
            while (event := parser.take()) is None:
                parser.feed(response.read1(1000))
            assert json.loads(event.data) == published
        response.close()
    wait_until(left.exists, "the end of the function", site)


# Processes that end.


def processes(site):
    """The ids of two processes, or more, that answer."""
    found: set[int] = set()
    with ThreadPoolExecutor(8) as pool:

        def both():
            for response in pool.map(site.ask, ["/process"] * 8):
                assert response.status == 200
                found.add(int(response.body))
            return len(found) >= 2

        wait_until(both, "answers of two processes", site)
    return found


@pytest.mark.parametrize("server", SERVERS)
def test_a_killed_process_is_replaced_and_no_page_lost(server, tmp_path):
    with deployed(server, tmp_path) as site:
        before = processes(site)
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        assert site.ask("/process").status == 200
        wait_until(lambda: processes(site) - before, "a new process", site)
        assert killed not in processes(site)


class Load:
    """Clients that keep asking ``site`` from the beginning of the block to its end.

    ``got`` counts the statuses of pages, ``posted`` those of forms; ``done`` are the forms that
    were processed.
    """

    def __init__(self, site, clients=8):
        self.site = site
        self.clients = clients
        self._got = []
        self._posted = []
        self._file = site.directory / "done"
        self._file.write_text("")
        self._numbers = itertools.count()
        self._enough = threading.Event()
        self._pool = ThreadPoolExecutor(2 * clients)

    @property
    def got(self):
        return Counter(self._got)

    @property
    def posted(self):
        return Counter(self._posted)

    @property
    def done(self):
        return self._file.read_text().split()

    def __enter__(self):
        work = [self._get, self._post] * self.clients
        self._running = [self._pool.submit(client) for client in work]
        wait_until(lambda: self.got[200] > 100 < self.posted[200], "load", site)
        return self

    def __exit__(self, *failure):
        self._enough.set()
        self._pool.shutdown()
        for client in self._running:
            client.result()
        print(f"pages: {self.got}, forms: {self.posted}")

    def _get(self):
        with self.site.connection() as connection:
            while not self._enough.is_set():
                connection.request("GET", "/home")
                with connection.getresponse() as response:
                    assert response.read()
                    self._got.append(response.status)

    def _post(self):
        with self.site.connection() as connection:
            while not self._enough.is_set():
                connection.request("POST", f"/add?n={next(self._numbers)}&to={self._file}")
                with connection.getresponse() as response:
                    assert response.read()
                    self._posted.append(response.status)


def check_answers(load, restarts):
    """Hold what ``load`` got while processes were restarted ``restarts`` times."""
    assert set(load.got) == {200}
    # Of the forms, those that a process had taken when it was told to stop: one of each client.
    assert set(load.posted) <= {200, 502}
    assert load.posted[502] <= restarts * load.clients
    done = load.done
    assert len(done) == len(set(done)), "a form was processed twice"
    # What a process has begun it finishes.
    assert len(done) == load.posted[200]


def restart(site, number):
    said = site.supervisorctl("restart", f"myapp:myapp_{number}")
    assert said == f"myapp:myapp_{number}: stopped\nmyapp:myapp_{number}: started\n"


def test_restarts_under_load_lose_no_page(site):
    before = processes(site)
    with Load(site) as load:
        restart(site, 0)
        restart(site, 1)
        wait_until(lambda: not before & processes(site), "two new processes", site)
    check_answers(load, 2)


def test_a_restart_waits_for_a_download_under_way(site):
    until = site.directory / "until-restarted"
    with site.connection() as connection, ThreadPoolExecutor(1) as pool:
        connection.request("GET", f"/stream?until={until}")
        response = connection.getresponse()
        assert response.readline() == b"first\n"
        lines = site.supervisorctl("status").splitlines()
        (number,) = (
            number
            for number, line in enumerate(lines)
            if f"pid {response.headers['X-Process']}," in line
        )
        restarting = pool.submit(restart, site, number)
        wait_until(lambda: "STOPPING" in site.supervisorctl("status"), "the stop", site)
        until.touch()
        assert response.read() == b"second\n"
        restarting.result()


# Under a prefix, and with the times of nginx and of the servers' pings divided by ten.


@pytest.fixture(scope="module", params=SERVERS)
def quick(request, tmp_path_factory):
    pings = {
        "uvicorn": [("interval 20", "interval 2"), ("ping-timeout 20", "ping-timeout 2")],
        "daphne": [("interval 20", "interval 2"), ("ping-timeout 30", "ping-timeout 3")],
    }
    with deployed(
        request.param,
        tmp_path_factory.mktemp(f"{request.param}-quick"),
        prefix="/my/app",
        nginx=[("read_timeout 60s", "read_timeout 6s"), ("send_timeout 60s", "send_timeout 6s")],
        supervisor=pings[request.param],
    ) as site:
        yield site


def test_the_whole_application_under_a_prefix(quick):
    answer = quick.ask("/environ").json
    assert (answer["SCRIPT_NAME"], answer["PATH_INFO"]) == ("/my/app", "/environ")
    assert answer["url"] == f"{quick.origin}/my/app/environ"
    headers = login(quick, "alice")
    with quick.websocket("/ws/who", origin=quick.origin, additional_headers=headers) as websocket:
        assert json.loads(websocket.recv(DEADLINE))["userid"] == "alice"


def test_pings_keep_an_idle_websocket_that_nginx_would_close(quick):
    with quick.websocket("/ws") as websocket, quick.connection() as connection:
        assert echoes(websocket)
        until = quick.directory / "until"
        connection.request("GET", f"/my/app/stream?until={until}")
        with connection.getresponse() as response:
            assert response.readline() == b"first\n"
            # As idle as the websocket, and with no pings.
            with pytest.raises(http.client.IncompleteRead):
                response.read()
        assert "upstream timed out" in (quick.directory / "error.log").read_text()
        assert echoes(websocket)
        until.touch()


# systemd.


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    with site_of("uvicorn", tmp_path) as site:
        units = fill_in_units(site)
        done = subprocess.run(
            ["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=DEADLINE
        )
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_a_reload_of_the_service_under_load_loses_no_page(tmp_path):
    # Uvicorn would wait 5 seconds for an application, and otherwise leave the old one in place.
    with activated(tmp_path, start_seconds=6) as (site, reload):
        before = processes(site)
        with Load(site) as load:
            reload()
            replaced = "two new processes"
            wait_until(lambda: not before & processes(site), replaced, site, 5 * DEADLINE)
        check_answers(load, 2)


# The means of these tests.


def test_what_does_not_end_is_killed_with_its_descendants(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def read():
        assert select.select([descriptor], [], [], DEADLINE)[0] == [descriptor]
        return os.read(descriptor, 100)

    try:
        with site_of("uvicorn", tmp_path) as site:
            child = f"setsid sh -c 'echo begun; exec sleep 1000' >{pipe}"
            site.start("sh", "-c", f"trap '' TERM; {child} & wait")
            assert read() == b"begun\n"
            with pytest.raises(subprocess.TimeoutExpired):
                site.stop(deadline=0)
        # The end of the file comes when nobody holds it any longer.
        assert read() == b""
    finally:
        os.close(descriptor)
