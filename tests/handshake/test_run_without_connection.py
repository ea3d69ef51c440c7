"""Work of a task, or of a timer, within a Pyramid request of nobody's."""

import threading
from contextlib import asynccontextmanager

import pytest
from pyramid.config import Configurator
from pyramid_retry import RetryableException
from sqlalchemy.exc import IntegrityError

from pyramid_asgi_consumers import run_in_request
from pyramid_asgi_consumers.testing import TestApp
from tests.support.asgi import http_scope, run
from tests.support.project import texts, write


async def test_what_has_no_connection_gives_the_registry(config):
    config.set_default_permission("speak")
    app = config.make_asgi_app()

    def look(request, *args):
        write(request, "hello")
        route = request.matched_route
        return args, request.url, request.authenticated_userid, route.name, request.method

    assert await run_in_request(app.registry, look, 1, 2) == (
        (1, 2),
        "http://localhost/",
        None,
        "asgi run_in_request",
        "GET",
    )
    assert await run_in_request(app.registry, texts) == ["hello"]


async def test_it_is_a_transaction_which_is_retried(config):
    config.include("pyramid_retry")
    app = config.make_asgi_app()
    attempts = []

    def func(request):
        attempts.append(threading.current_thread())
        write(request, f"attempt {len(attempts)}")
        if len(attempts) < 3:
            raise RetryableException
        return "done"

    assert await run_in_request(app.registry, func) == "done"
    assert await run_in_request(app.registry, texts) == ["attempt 3"]
    assert threading.main_thread() not in attempts


async def test_what_it_raises_comes_back_after_the_abort(config):
    app = config.make_asgi_app()

    def func(request):
        write(request, "gone")
        raise LookupError("func")

    with pytest.raises(LookupError, match="func"):
        await run_in_request(app.registry, func)
    with pytest.raises(IntegrityError):
        await run_in_request(app.registry, write, "no such user", "bob")
    assert await run_in_request(app.registry, texts) == []


async def test_a_registry_that_no_application_was_made_with_is_an_error(config):
    with pytest.raises(RuntimeError, match="make_asgi_app.. has made no application"):
        await run_in_request(config.registry, texts)


async def test_no_page_and_no_tool_finds_what_it_goes_through():
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    app = config.make_asgi_app()
    sent = await run(app, http_scope("/"))
    assert sent[0]["status"] == 404
    mapper = config.get_routes_mapper()
    names = [route.name for route in mapper.get_routes(include_static=True)]
    assert names == []
    assert config.introspector.get_category("routes") is None


def test_a_task_of_the_lifespan_runs_in_the_thread_of_its_test(config):
    threads = []

    @asynccontextmanager
    async def context(registry):
        await run_in_request(registry, lambda request: threads.append(threading.current_thread()))
        yield

    config.add_asgi_lifespan(context)
    with TestApp(config.make_asgi_app()):
        assert threads == [threading.current_thread()]
