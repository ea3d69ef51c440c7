"""A real Redis, on a port of its own."""

import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """``redis-server`` with its data in ``directory``; it is down until it is started."""

    def __init__(self, directory, port=None):
        self.directory = directory
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = Redis.from_url(self.url)
        self.process = None

    def start(self, *options):
        self.launch(*options)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.client.ping()
                return
            except RedisConnectionError:
                assert self.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)

    def launch(self, *options):
        """Start it with further options, and do not wait until it answers."""
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.fail("redis-server is missing: apt-get install redis-server", pytrace=False)
        self.process = subprocess.Popen(
            [
                *(binary, "--port", str(self.port), "--dir", str(self.directory), "--save", ""),
                *("--repl-diskless-sync-delay", "0"),
                *options,
            ],
            stdout=subprocess.DEVNULL,
        )

    def stop(self, keep=True):
        """Shut down, with the data written to the disk if ``keep`` is true."""
        self.client.shutdown(save=keep, nosave=not keep)
        self.process.wait(30)

    def kill(self):
        self.process.kill()
        self.process.wait(30)

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def close(self):
        self.client.close()
        if self.process is not None:
            self.resume()
            self.kill()


@contextmanager
def running_redis(directory):
    """A Redis that is up, until it is stopped or the block ends."""
    server = RedisServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.close()
