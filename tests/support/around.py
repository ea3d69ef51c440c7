"""The middleware that strangers put around an application."""

from starlette.middleware.base import BaseHTTPMiddleware


def wrapped(app):
    """``app`` inside what wraps ``receive`` and ``send``, as tracing and error reporting do."""

    async def wrapping(scope, receive, send):
        async def wrapped_receive():
            return await receive()

        async def wrapped_send(message):
            await send(message)

        await app(scope, wrapped_receive, wrapped_send)

    return wrapping


def base(app):
    """``app`` inside Starlette's ``BaseHTTPMiddleware``, which runs it in a task of its own."""

    async def dispatch(request, call_next):
        return await call_next(request)

    return BaseHTTPMiddleware(app, dispatch)


AROUND = {"nothing": lambda app: app, "wrapped": wrapped, "base": base}
