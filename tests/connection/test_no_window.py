"""A user who is put out while a handshake is under way does not stay, whenever that is.

Each test makes the same connection again and again. In the first run the user logs out at the first
moment, in the next one at the second, and so on, until there is a run in which the connection is
open and has served before that.
"""

import asyncio
import threading
from pathlib import Path

import pyramid
import pytest
from pyramid.request import RequestLocalCache
from pyramid_retry import RetryableException, is_last_attempt

import pyramid_asgi_consumers
from pyramid_asgi_consumers.channels import channels_of
from tests.support import window
from tests.support.moments import Calls, Steps
from tests.support.window import (
    BROKEN_OFF,
    CANCELLED,
    CHECKED,
    ENDS,
    KINDS,
    LEFT,
    SECONDS,
    Policy,
    Resource,
    Site,
    at_each,
)

PLACES = tuple(
    str(Path(place))
    for place in (
        Path(pyramid_asgi_consumers.__file__).parent,
        Path(pyramid.__file__).parent,
        window.__file__,
        __file__,
    )
)


class RememberingPolicy(Policy):
    """Looks once in each request, and has something to commit then."""

    def __init__(self):
        super().__init__()
        self.commits = 0
        self.users = RequestLocalCache(self._look)

    def _look(self, request):
        request.tm.get().join(Resource(self._commit))
        return super().identity(request)

    def _commit(self):
        self.commits += 1

    def identity(self, request):
        return self.users.get_or_create(request)


class LoopThread:
    """An event loop in a thread."""

    def __enter__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        return self

    def do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(SECONDS)

    def __exit__(self, *exc_info):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(SECONDS)
        self.loop.close()


def steps():
    """A moment before each step of each task."""
    return Steps()


def calls():
    """A moment at each call in the handshake's thread: in the package, Pyramid and the project.

    What is said while the event loop is at work comes to it with its next step.
    """
    return Calls(*PLACES)


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_stays_who_logs_out_at_a_step_of_the_loop(kind):
    ends = at_each(steps, Site(), kind)
    assert ENDS[kind] <= set(ends) <= {CHECKED, *ENDS[kind]}
    # There are some before the policy looks, while it does, and after it.
    assert len(ends) > 15


@pytest.mark.parametrize(
    "kind",
    ["function", *(pytest.param(k, marks=pytest.mark.streams) for k in KINDS if k != "function")],
)
def test_nobody_stays_who_logs_out_at_a_call(kind):
    ends = at_each(calls, Site(), kind)
    assert ENDS[kind] <= set(ends) <= {CHECKED, *ENDS[kind]}
    assert len(ends) > 50


def project(config):
    """Transactions, attempts, and a tween around them that takes its time."""
    config.include("pyramid_tm")
    config.include("pyramid_retry")
    config.add_tween(f"{__name__}.slow_tween_factory")


def slow_tween_factory(handler, registry):
    def slow_tween(request):
        response = handler(request)
        for _ in range(3):
            takes_its_time()
        if is_last_attempt(request):
            return response
        raise RetryableException

    return slow_tween


def takes_its_time():
    """There is a moment as it is called, and as it returns."""


@pytest.mark.parametrize("moments", [steps, calls])
def test_nobody_stays_who_logs_out_before_the_handshakes_own_commit_or_attempt(moments):
    settings = {"tm.manager_hook": "pyramid_tm.explicit_manager", "retry.attempts": "2"}
    site = Site(RememberingPolicy, project, **settings)
    ends = at_each(moments, site, "function")
    # The last run has two attempts, at least.
    assert site.policy.commits > 1
    assert set(ends) == ENDS["function"]


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_stays_whose_client_leaves_meanwhile(kind):
    ends = at_each(steps, Site(), kind, leaves=True)
    assert set(ends) <= {LEFT, BROKEN_OFF, CHECKED, *ENDS[kind]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_first", [True, False])
def test_nobody_stays_whose_handshake_is_cancelled_meanwhile(kind, is_first):
    site = Site()

    def act():
        cancel = site.client.task.cancel
        if is_first:
            site.client.loop.call_soon_threadsafe(cancel)
        site.log_out()
        if not is_first:
            site.client.loop.call_soon_threadsafe(cancel)

    assert set(at_each(steps, site, kind, act)) <= {CANCELLED, BROKEN_OFF, CHECKED, *ENDS[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_stays_who_is_put_out_on_another_event_loop(kind):
    site = Site()
    with LoopThread() as other:

        def act():
            site.policy.table.discard("ann")
            other.do(channels_of(site.config.registry).disconnect("ann", "bye"))

        ends = set(at_each(steps, site, kind, act))
    assert ENDS[kind] <= ends <= {CHECKED, *ENDS[kind]}
