"""The users of ``tests.apps.usersapp`` and what their clients see."""

import asyncio
import contextlib
import http.client
from urllib.parse import urlencode

from websockets.asyncio.client import connect

from tests.support import clients
from tests.support.clients import DEADLINE, HOST
from tests.support.servers import wait_until

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class User:
    """Logged in at ``server``; ``cookie`` is what a browser would send from then on."""

    def __init__(self, server, name):
        self.name = name
        answer = post(server, "/login", user=name)
        assert answer.status == 200
        self.cookie = answer.headers["Set-Cookie"].partition(";")[0]

    @property
    def headers(self):
        return {"Cookie": self.cookie}

    def post(self, server, path, **fields):
        """Send a form; return the answer."""
        return post(server, path, self.headers, **fields)

    def logs_out(self, server, path="/logout"):
        assert self.post(server, path).status == 200

    def websocket(self, server, path, **options):
        return clients.websocket(server, path, additional_headers=self.headers, **options)

    def handshake_status(self, server, path):
        return clients.handshake_status(server, path, f"Cookie: {self.cookie}")

    def send_request(self, connection, path, *lines):
        """Ask for ``path`` over a plain socket."""
        head = [f"GET {path} HTTP/1.1", f"Host: {HOST}", f"Cookie: {self.cookie}", *lines, "", ""]
        connection.sendall("\r\n".join(head).encode())

    def connect(self, server, path):
        """A websocket for an event loop."""
        return connect(
            f"ws://{HOST}:{server.port}{path}",
            additional_headers=self.headers,
            proxy=None,
            compression=None,
            open_timeout=DEADLINE,
            close_timeout=DEADLINE,
        )

    @contextlib.contextmanager
    def response(self, server, path, until):
        """The response to GET ``path``, of which ``until`` has come."""
        connection = http.client.HTTPConnection(HOST, server.port, timeout=DEADLINE)
        with contextlib.closing(connection):
            connection.request("GET", path, headers=self.headers)
            response = connection.getresponse()
            assert response.status == 200
            read = b""
            while until not in read:
                read += response.read1()
            yield response


def post(server, path, headers=(), **fields):
    body = urlencode(fields).encode()
    return clients.get(server, path, method="POST", headers={**FORM, **dict(headers)}, body=body)


def is_whole(response):
    """Read ``response`` to its end; return whether it has come whole."""
    try:
        response.read()
    except (http.client.IncompleteRead, ConnectionResetError):
        return False
    return True


def happened(server, what):
    return clients.get(server, "/state").json.get(what, 0)


def wait_for(server, what, count=1):
    wait_until(lambda: happened(server, what) >= count, what, server)


async def echo(websocket):
    """The websocket is open, and answers."""
    await websocket.send("still here")
    assert await asyncio.wait_for(websocket.recv(), DEADLINE) == "still here"
