"""What is done differently for Gunicorn's ``-k asgi``, of which a worker runs in this process."""

import asyncio
import contextlib
import os
import socket
from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.gasgi import ASGIWorker

from pyramid_asgi_consumers.quirks import gunicorn
from pyramid_asgi_consumers.stopping import Stopping
from tests.support.clients import DEADLINE


async def app(scope, receive, send):
    """Knows no lifespan."""
    raise ValueError(scope["type"])


@contextlib.asynccontextmanager
async def working():
    """A worker and the task in which it serves."""
    config = Config()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sockets = [SimpleNamespace(sock=listener)]
        worker = ASGIWorker(0, os.getppid(), sockets, None, 30, config, Logger(config))
        worker.loop, worker.asgi = asyncio.get_running_loop(), app
        task = asyncio.create_task(worker._serve())
        try:
            while not worker.servers:
                await asyncio.sleep(0.01)
            yield worker, task
        finally:
            worker.alive = False
            await asyncio.wait_for(task, DEADLINE)
            worker.tmp.close()


@pytest.mark.parametrize("is_quick", [True, False], ids=["quick", "graceful"])
async def test_a_worker_that_stops_without_a_word_waits_for_what_ends(is_quick):
    ends = Stopping().of(asyncio.get_running_loop())
    async with working() as (worker, task):
        ended = asyncio.Event()
        ends.add(ended.set)
        worker._quick_shutdown = is_quick
        # As if its parent had gone.
        worker.ppid = -1
        await asyncio.wait_for(ended.wait(), DEADLINE)
        # The end takes a moment.
        await asyncio.sleep(0.1)
        assert not task.done()
        ends.discard(ended.set)
        await asyncio.wait_for(task, DEADLINE)


async def test_a_worker_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(gunicorn, "HOLD", 0.2)
    ends = Stopping().of(asyncio.get_running_loop())
    async with working() as (worker, task):
        ends.add(print)
        worker.handle_quit_signal()
        await asyncio.wait_for(task, DEADLINE)
    ends.discard(print)
