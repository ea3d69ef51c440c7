"""The view deriver that lets view callables be ``async def``, and bodies async iterables."""

import asyncio
import inspect
import sys

from pyramid.exceptions import ConfigurationError

from pyramid_asgi_consumers.async_bodies import AsyncBody, is_async
from pyramid_asgi_consumers.async_views import LOOP_ARGUMENTS, run_on_loop, run_on_own_loop
from pyramid_asgi_consumers.config.shapes import is_async_generator_function


def async_view(view, info):
    """Await what ``view`` returns, where that can be awaited, and stream what it yields.

    Functions, methods, classes and other callables are told by what they return, so that whatever
    Pyramid can call may be async. Under ASGI it is awaited on the server's event loop while the
    view's thread waits, elsewhere on a loop made for it. An async generator, and a response whose
    ``app_iter`` is an async iterable, get an :class:`.AsyncBody`.

    Raises RuntimeError on the thread of an event loop that runs, which would wait for itself, and
    within a thread-local transaction, which would not be there; ConfigurationError for an async
    generator with a renderer, TypeError where that shows only as it is called.
    """
    renderer = info.options.get("renderer")
    # An application's default renderer has no name: it is not meant for this view.
    name = None if renderer is None else renderer.name
    words = (
        f"The view {info.original_view!r} is an async generator: what it yields is sent as it is,"
        f" so it can have no renderer, and has {name!r}"
    )
    if name is not None and _yields(info):
        raise ConfigurationError(words)

    def derived(context, request):
        result = view(context, request)
        if hasattr(result, "__await__"):
            result = _awaited(result, info, request)
        if hasattr(result, "app_iter"):
            if is_async(result.app_iter):
                _stream(result, request, result.app_iter, result.content_length)
        elif hasattr(result, "__aiter__") and is_async(result):
            if name is not None:
                raise TypeError(words)
            response = request.response
            _stream(response, request, result, None, _encoder(info, response))
            return response
        return result

    return derived


def _yields(info):
    view = info.original_view
    attribute = info.options.get("attr")
    if inspect.isclass(view) or attribute is not None:
        view = getattr(view, attribute or "__call__", None)
    return is_async_generator_function(view)


def _awaited(awaitable, info, request):
    reason = _reason_to_refuse(request)
    if reason is not None:
        if hasattr(awaitable, "close"):
            awaitable.close()
        raise RuntimeError(f"The async view {info.original_view!r} {reason}")
    loop_arguments = request.environ.get(LOOP_ARGUMENTS)
    if loop_arguments is None:
        return run_on_own_loop(awaitable)
    return run_on_loop(awaitable, *loop_arguments)


def _stream(response, request, source, length, convert=None):
    response.app_iter = AsyncBody(source, request.environ.get(LOOP_ARGUMENTS), convert)
    # WebOb has forgotten it.
    response.content_length = length
    # WebOb would cut a range out of it, reading all that is before.
    request.environ.pop("HTTP_RANGE", None)


def _encoder(info, response):
    def encoded(chunk):
        if isinstance(chunk, str):
            return chunk.encode(response.charset or "UTF-8")
        if isinstance(chunk, bytes):
            return chunk
        raise TypeError(
            f"The async view {info.original_view!r} must yield str or bytes, not"
            f" {type(chunk).__name__}"
        )

    return encoded


def _reason_to_refuse(request):
    if asyncio._get_running_loop() is not None:
        return (
            "was called on the thread of a running event loop, which cannot wait for it: await"
            " the work itself instead of making a subrequest"
        )
    transaction = sys.modules.get("transaction")
    if (
        transaction is not None
        and request.environ.get("tm.active")
        and request.environ.get("tm.manager") is transaction.manager
    ):
        return (
            "would not see the transaction, which belongs to the thread: set"
            " tm.manager_hook = pyramid_tm.explicit_manager"
        )
    return None


def includeme(config):
    config.add_view_deriver(async_view, under="rendered_view", over="mapped_view")
