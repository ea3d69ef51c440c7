"""How many websockets are opened in a second: plain, and with a user who may or may not.

Sixteen are under way at once; each is closed as soon as it is there. For the guarded ones a header
names the user, who is looked up in a dictionary: every fourth is a stranger, and is to be refused.
"""

from pyramid.config import Configurator
from pyramid.security import Allowed, Denied

from benchmarks.command import main
from benchmarks.support import Table, Variant, handshake, opened, rates, serving

USERS = {"token": "alice"}
AT_ONCE = 16


def bare():
    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            raise ValueError(scope["type"])
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    return app


class Policy:
    def identity(self, request):
        return USERS.get(request.headers.get("User"))

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return Allowed("in") if request.identity else Denied("out")


async def stay(websocket):
    await websocket.accept()
    await websocket.wait_closed()


def accepting():
    return ours()


def guarding():
    return ours(permission="view")


def ours(**options):
    with Configurator() as config:
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(Policy())
        config.add_websocket("/ws", stay, **options)
        return config.make_asgi_app()


class Handshakes(Table):
    units = ("handshakes/s", "handshakes/s of processor time")
    reference = "ours"

    def __init__(self, name, title, variants, headers):
        self.name = name
        self.title = title
        self.variants = variants
        self._requests = [handshake("/ws", header) for header in headers]
        self._statuses = [b"101" if header != STRANGER else b"403" for header in headers]

    def measure(self, variant, ground, size, seconds):
        def turn():
            right = 0
            answers = opened(server.port, self._requests, AT_ONCE)
            for (connection, came), status in zip(answers, self._statuses, strict=True):
                connection.close()
                right += came.startswith(b"HTTP/1.1 " + status)
            return right, len(self._requests) - right

        with serving(self.variants[variant].app) as server:
            return rates(server, seconds, turn)


FRIEND, STRANGER = "User: token", "User: nobody"
TABLES = [
    Handshakes(
        "handshakes",
        "Plain handshakes of websockets",
        {
            "bare": Variant("benchmarks.handshakes:bare"),
            "ours": Variant("benchmarks.handshakes:accepting"),
            "starlette": Variant("benchmarks.peers.starlette:accepting", ("starlette",)),
            "channels": Variant("benchmarks.peers.django:accepting", ("channels", "django")),
        },
        [FRIEND] * AT_ONCE,
    ),
    Handshakes(
        "guarded",
        "Handshakes of websockets with a user, a fourth of them refused",
        {
            "ours": Variant("benchmarks.handshakes:guarding"),
            "starlette": Variant("benchmarks.peers.starlette:guarding", ("starlette",)),
            "channels": Variant("benchmarks.peers.django:guarding", ("channels", "django")),
        },
        [FRIEND, FRIEND, FRIEND, STRANGER] * (AT_ONCE // 4),
    ),
]

if __name__ == "__main__":
    main(__doc__, TABLES)
