"""WSGI applications to serve, and what their tests wait for."""

import asyncio
import io
import threading

from tests.support.asgi import http_scope


def answers(chunks, headers=(), status="200 OK"):
    def app(environ, start_response):
        start_response(status, list(headers))
        return chunks

    return app


class Closing:
    """A response iterable that counts how often it was closed."""

    def __init__(self, chunks):
        self.chunks = chunks
        self.closed = 0

    def __iter__(self):
        return iter(self.chunks)

    def close(self):
        self.closed += 1


def request(body, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


DISCONNECT = {"type": "http.disconnect"}


async def wait_until(condition):
    async def poll():
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 20)


class Exchange:
    """A request under way, whose client takes a message only when it is let."""

    def __init__(self, app, *messages, scope=None):
        self.sent = []
        self.sending = 0
        self.reading = 0
        self.left = asyncio.Event()
        self.taking = asyncio.Event()
        self._messages = list(messages or (request(b""),))
        self.task = asyncio.create_task(app(scope or http_scope(), self.receive, self.send))

    async def receive(self):
        self.reading += 1
        if self._messages:
            return self._messages.pop(0)
        await self.left.wait()
        return DISCONNECT

    async def send(self, message):
        self.sending += 1
        await self.taking.wait()
        self.sent.append(message)

    async def cancel(self):
        """Cancel the request; return when it has ended and left no task behind."""
        self.task.cancel()
        await asyncio.wait([self.task], timeout=20)
        assert self.task.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}


class Idle(list):
    """The idle threads of a crew; ``fallen`` counts how many have become so."""

    def __init__(self):
        super().__init__()
        self.fallen = threading.Semaphore(0)

    def append(self, bell):
        super().append(bell)
        self.fallen.release()


def path_tween(handler, registry):
    """Sees every path, as that of a project does which redirects some."""

    def handle(request):
        response = handler(request)
        response.headers["X-Path"] = request.environ["PATH_INFO"]
        return response

    return handle


KIB = 1024


def status_of(sent):
    return sent[0]["status"]


def levels(caplog):
    own = (record for record in caplog.records if record.name.startswith("pyramid_asgi"))
    return [record.levelname for record in own]


# close()


def raising(*chunks):
    yield from chunks
    raise ValueError("late")


# Requests that are cancelled


class File(io.BytesIO):
    """A file that waits in read(), and counts how often it is closed."""

    def __init__(self, data):
        super().__init__(data)
        self.reading = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.closings = 0

    def read(self, size=-1):
        self.reading.set()
        assert self.go_on.wait(20)
        return super().read(size)

    def close(self):
        self.closings += 1
        super().close()
