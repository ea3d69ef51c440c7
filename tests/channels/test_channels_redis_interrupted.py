"""``redis://`` where a finalizer or the handler of a signal publishes in the midst of a publish."""

import subprocess
import sys
import threading

import pytest

from pyramid_asgi_consumers.channels.redis import RedisBackend, blocking
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

SECONDS = 20


@pytest.fixture
def server(tmp_path):
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.close()


# A publish that is interrupted at each of its lines in turn, those of the libraries among them.
INTERRUPTED = """
import faulthandler, sys
from pyramid_asgi_consumers.channels.redis import RedisBackend

faulthandler.dump_traceback_later(50, exit=True)
backend = RedisBackend(sys.argv[1] + "?max_connections=2", history=10)

def publish():
    (result,) = backend.publish_many([("a", b"j1")])
    assert isinstance(result, str), result

def interrupted_at(line):
    # Interrupts the publish when it first comes to the line; returns all lines that it came to.
    lines = set()

    def trace(frame, event, argument):
        here = frame.f_code, frame.f_lineno
        if here == line and here not in lines:
            publish()
        lines.add(here)
        return trace

    sys.settrace(trace)
    try:
        publish()
    finally:
        sys.settrace(None)
    return lines

publish()
known = set()
while new := interrupted_at(None) - known:
    for line in new:
        interrupted_at(line)
    known |= new
print(len(known))
"""


def test_a_publish_may_be_interrupted_anywhere_by_another(server):
    command = [sys.executable, "-c", INTERRUPTED, server.url]
    found = subprocess.run(command, capture_output=True, timeout=100)
    assert found.returncode == 0, found.stderr.decode()
    assert int(found.stdout) > 100


class Interrupted(str):
    """The name of a channel that calls ``then`` when its key is made."""

    __slots__ = ("then",)

    def __format__(self, how):
        then, self.then = self.then, None
        if then is not None:
            then()
        return super().__format__(how)


def test_what_interrupts_a_publish_takes_its_deadline_from_nobody(server):
    backend = RedisBackend(server.url, timeout=0.5)
    assert isinstance(backend.publish_many([("a", b"j1")])[0], str)
    results = []
    name = Interrupted("a")
    name.then = lambda: results.extend(backend.publish_many([("b", b"j1")]))
    server.pause()
    outer = threading.Thread(
        target=lambda: results.extend(backend.publish_many([(name, b"j1")])), daemon=True
    )
    outer.start()
    outer.join(SECONDS)
    assert not outer.is_alive()
    assert len(results) == 2 and not any(isinstance(result, str) for result in results)
    server.resume()
    backend._pool.disconnect()


def test_a_limit_beyond_all_threads_is_none():
    most = blocking.MOST_TURNS
    assert RedisBackend(f"redis://localhost/0?max_connections={most}")._share().turns is None
    limited = RedisBackend(f"redis://localhost/0?max_connections={most - 1}")
    assert limited._share().turns.qsize() == most - 1
