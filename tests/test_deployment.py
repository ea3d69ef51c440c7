"""The files of ``docs/deploy``, run as they are but for paths, users and ports."""

import hashlib
import http.client
import json
import os
import re
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.clients import DEADLINE, MIB, blocks
from tests.sites import deployed

SERVERS = ("uvicorn", "daphne")

pytestmark = pytest.mark.deployment


@pytest.fixture(scope="module", params=SERVERS)
def site(request, tmp_path_factory):
    with deployed(request.param, tmp_path_factory.mktemp(request.param)) as site:
        yield site


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
    assert (response.status, response.content) == (200, b"A Pyramid page")


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
    for origin in ("https://evil.example", site.origin + "0"):
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
    assert answer["scheme"] == ("http" if site.server == "daphne" else "https")


def test_what_nginx_tells_the_application(site):
    forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "ftp"}
    assert json.loads(site.ask("/environ", headers=forged).content) == {
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
    assert response.content.decode() == hashlib.sha256(content).hexdigest()


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


# Processes that end.


def processes(site):
    """The ids of the processes that answer now, of which there are two."""
    found: set[int] = set()
    with ThreadPoolExecutor(8) as pool:

        def both():
            for response in pool.map(site.ask, ["/process"] * 8):
                assert response.status == 200
                found.add(int(response.content))
            return len(found) >= 2

        site.wait_until(both, "answers of two processes")
    return found


def test_a_killed_process_is_replaced(site):
    before = processes(site)
    killed, other = before
    os.kill(killed, signal.SIGKILL)
    # The pool of clients keeps asking: none of them may see it.
    site.wait_until(lambda: len(processes(site) - {killed}) == 2, "a new process", 5)
    assert other in processes(site)


class Load:
    """Clients that keep asking ``site`` from the beginning of the block to its end.

    ``got`` counts the statuses of the pages, ``posted`` those of the forms.
    """

    def __init__(self, site, clients=8):
        self.site = site
        self.file = site.directory / "added"
        self.file.write_text("")
        self.got = Counter()
        self.posted = Counter()
        self._numbers = iter(range(10**9))
        self._enough = threading.Event()
        self._pool = ThreadPoolExecutor(2 * clients)
        self._clients = clients

    def __enter__(self):
        work = [self._get] * self._clients + [self._post] * self._clients
        self._running = [self._pool.submit(each) for each in work]
        self.site.wait_until(lambda: self.got[200] > 100 < self.posted[200], "load")
        return self

    def __exit__(self, *failure):
        self._enough.set()
        self._pool.shutdown()
        for each in self._running:
            each.result()

    def _get(self):
        with self.site.connection() as connection:
            while not self._enough.is_set():
                connection.request("GET", self.site.prefix + "/home")
                response = connection.getresponse()
                response.read()
                self.got[response.status] += 1

    def _post(self):
        with self.site.connection() as connection:
            while not self._enough.is_set():
                path = f"{self.site.prefix}/add?n={next(self._numbers)}&to={self.file}"
                connection.request("POST", path)
                response = connection.getresponse()
                response.read()
                self.posted[response.status] += 1


def restart(site):
    """Restart one process after the other, as docs/deployment.rst says."""
    for number in range(2):
        said = site.supervisorctl("restart", f"myapp:myapp_{number}")
        assert said == f"myapp:myapp_{number}: stopped\nmyapp:myapp_{number}: started\n"


def test_a_restart_under_load_loses_no_answer(site):
    before = processes(site)
    with Load(site) as load:
        restart(site)
        site.wait_until(lambda: not before & processes(site), "two new processes")
    print(load.got, load.posted)
    assert set(load.got) == {200}
    lines = load.file.read_text().splitlines()
    assert len(lines) == len(set(lines)), "a form was processed twice"
    assert set(load.posted) == {200}
