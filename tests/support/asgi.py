"""Drives an ASGI application in-process."""

import asyncio

CONNECT = {"type": "websocket.connect"}


def http_scope(path="/", method="GET", headers=(), **more):
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.com"), *headers],
        **more,
    }


def websocket_scope(path="/ws", headers=(), **more):
    return {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"example.com"), *headers],
        "extensions": {"websocket.http.response": {}},
        **more,
    }


#: Makes the scope of each protocol.
SCOPES = {"http": http_scope, "websocket": websocket_scope}


async def run(app, scope, *messages, disconnected=None):
    """Serve ``scope``; return what was sent. After ``messages`` the client stays, until
    ``disconnected`` (an asyncio.Event) is set."""
    if scope["type"] == "http" and not messages:
        messages = ({"type": "http.request", "body": b"", "more_body": False},)
    waiting = list(messages)
    sent = []
    left = disconnected or asyncio.Event()

    async def receive():
        if waiting:
            return waiting.pop(0)
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), 20)
    return sent


def body_of(sent):
    return b"".join(m["body"] for m in sent if m["type"].endswith("response.body"))
