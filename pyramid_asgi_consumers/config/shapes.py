"""Tells by its shape whether a callable is an ASGI application."""

import builtins
import dis
import functools
import inspect
from itertools import pairwise
from typing import Any

from asgiref.compatibility import guarantee_single_callable

EXPECTED = "an ASGI application, async def app(scope, receive, send), or its dotted name"


def single_callable(app: Any) -> Any:
    """``app`` as an ASGI 3 application; an ASGI 2 one is called in its two steps.

    Raises TypeError, saying what ``app`` is instead, for what can be neither. One whose parameters
    Python cannot tell is believed.
    """
    if not builtins.callable(app):
        raise TypeError(f"{app!r}, which cannot be called")
    if getattr(app, "_asgi_single", False) or getattr(app, "_asgi_double", False):
        return guarantee_single_callable(app)
    try:
        signature = inspect.signature(app)
    except (TypeError, ValueError):
        return guarantee_single_callable(app)
    # asgiref takes classes, and functions that are not async, for ASGI 2: but Starlette's
    # endpoints are classes that take all three arguments, and a function may return a coroutine.
    if _takes(signature, 3):
        if not inspect.isclass(app) and _returns_nothing(app):
            raise TypeError(f"{app!r}, which is not async: it returns None")
        return app
    names = list(signature.parameters)
    if _takes(signature, 1) and (
        _instances_are_called(app) if inspect.isclass(app) else names[0] == "scope"
    ):
        return guarantee_single_callable(app)
    raise TypeError(f"{app!r}, which takes {signature}{meant(app, 'add_asgi_consumer')}")


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _instances_are_called(cls: type) -> bool:
    return any("__call__" in vars(base) for base in cls.__mro__)


def meant(app: Any, directive: str) -> str:
    """What ``app``, which is nothing for ``directive``, is instead; empty where nothing tells.

    That is what the first guess of a Pyramid developer may have been.
    """
    try:
        names = list(inspect.signature(app).parameters)
    except (TypeError, ValueError):
        return ""
    if names[-1:] == ["request"]:
        return ": a view is declared with add_view"
    if directive != "add_asgi_consumer":
        if names[:1] == ["scope"]:
            return ": an ASGI application is declared with add_asgi_consumer"
    elif len(names) == 1 and is_async(app):
        if names == ["stream"]:
            return ": a function of an event stream is declared with add_event_stream"
        return ": a function of a websocket is declared with add_websocket"
    if len(names) == 2 and names[1] == "start_response":
        return ": a WSGI application is no ASGI application"
    return ""


def is_async(app: Any) -> bool:
    """Whether a call of ``app`` surely returns a coroutine."""
    return is_coroutine_function(inspect.unwrap(_without_partial(app)))


def is_coroutine_function(function: Any) -> bool:
    """Whether ``function`` itself is async; what it wraps may be, and be run by it."""
    function = _without_partial(function)
    return any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))


def is_async_generator_function(function: Any) -> bool:
    """Whether a call of ``function`` surely returns an async generator."""
    function = _without_partial(function)
    return any(map(inspect.isasyncgenfunction, (function, type(function).__call__)))


def _without_partial(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _returns_nothing(app: Any) -> bool:
    """Whether ``app`` is a function that ends with None, or is a generator, whatever happens."""
    code = getattr(app, "__code__", None)
    if code is None or is_async(app):
        return False
    if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
        return True
    # RETURN_CONST is that of Python 3.12 and 3.13.
    returned = [
        (each if each.opname == "RETURN_CONST" else before)
        for before, each in pairwise(dis.get_instructions(code))
        if each.opname.startswith("RETURN_")
    ]
    return bool(returned) and all(
        one.opname in ("LOAD_CONST", "RETURN_CONST") and one.argval is None for one in returned
    )
