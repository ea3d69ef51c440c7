import threading

import pytest

from pyramid_asgi_consumers.testing.loop import LoopThread


@pytest.fixture
def no_thread_is_left():
    """All threads that the test has started have ended."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def thread():
    """An event loop without an application."""
    thread = LoopThread()
    yield thread
    thread.close()
