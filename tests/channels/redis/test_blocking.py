"""Publishing from threads: turns, forks, and what interrupts a publish."""

import subprocess
import sys
import threading

from pyramid_asgi_consumers.channels.events import encode
from pyramid_asgi_consumers.channels.redis import RedisBackend, blocking
from pyramid_asgi_consumers.exceptions import PublishRefused, PublishUnknown
from tests.support.channels import SECONDS


def test_a_thread_is_refused_or_left_in_doubt_within_the_timeout(server):
    backend = RedisBackend(server.url, timeout=0.3)
    messages = [("a", encode(number)) for number in range(3)]
    assert all(isinstance(result, str) for result in backend.publish_many(messages))
    server.pause()
    assert {type(result) for result in backend.publish_many(messages)} == {PublishUnknown}
    assert {type(result) for result in backend.publish_many(messages)} == {PublishRefused}
    server.resume()
    server.stop()
    assert {type(result) for result in backend.publish_many(messages)} == {PublishRefused}
    server.start()
    assert all(isinstance(result, str) for result in backend.publish_many(messages))


def test_threads_wait_for_their_turn_where_a_url_limits_connections(server):
    backend = RedisBackend(f"{server.url}?max_connections=1")
    results = []

    def publish():
        for _ in range(20):
            results.extend(backend.publish_many([("a", encode(1))]))

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80 and all(isinstance(result, str) for result in results)
    assert backend.blocking.pool.max_connections == 1


def test_a_thread_that_never_has_its_turn_is_certainly_refused(server):
    backend = RedisBackend(f"{server.url}?max_connections=1", timeout=0.3)
    server.pause()
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(backend.publish_many([("a", encode(1))])))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {type(result) for result in results} == {PublishRefused}
    # As if another thread published for as long.
    turns = backend.blocking.turns
    turn = turns.get()
    (result,) = backend.publish_many([("a", encode(1))])
    turns.put(turn)
    assert "max_connections are busy" in str(result)
    backend.blocking.timeout = 2.0
    server.resume()
    (result,) = backend.publish_many([("a", encode(1))])
    assert isinstance(result, str)
    backend.blocking.pool.disconnect()


def test_more_than_a_hundred_threads_have_a_connection_each(server):
    backend = RedisBackend(server.url)
    connections = [backend.blocking.pool.get_connection() for _ in range(101)]
    for connection in connections:
        backend.blocking.pool.release(connection)
    backend.blocking.pool.disconnect()


FORKS = """
import os, sys
from pyramid_asgi_consumers.channels.redis import RedisBackend
backend = RedisBackend(sys.argv[1] + "?max_connections=1", timeout=1.0)
publish = lambda: isinstance(backend.publish_many([("a", b"j1")])[0], str)
assert publish()
# As if another thread published.
backend.blocking.turns.get()
with backend._lock():
    child = os.fork()
    if not child:
        os._exit(publish() and publish())
    _, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 1
backend.blocking.turns.put(None)
assert publish()
"""


def test_a_fork_publishes_whatever_other_threads_did(server):
    subprocess.run([sys.executable, "-c", FORKS, server.url], check=True, timeout=SECONDS)


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
    backend.blocking.pool.disconnect()


def test_a_limit_beyond_all_threads_is_none():
    most = blocking.MOST_TURNS
    assert RedisBackend(f"redis://localhost/0?max_connections={most}").blocking.turns is None
    limited = RedisBackend(f"redis://localhost/0?max_connections={most - 1}")
    assert limited.blocking.turns.qsize() == most - 1
