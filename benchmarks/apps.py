"""What bridge.py serves: the same pages, once as bare ASGI and once as Pyramid views."""

import io
import os
import time

from asgiref.wsgi import WsgiToAsgi
from pyramid.config import Configurator
from pyramid.response import Response

from pyramid_asgi_consumers.wsgi.environ import build_environ

HELLO = b"Hello, world!"
CHUNK = b"x" * 65536
CHUNKS = 64
THREADS = 40


def hello(request):
    return Response(HELLO)


def download(request):
    chunks = (CHUNK for _ in range(CHUNKS))
    return Response(app_iter=chunks, content_length=CHUNKS * len(CHUNK))


async def chunks():
    for _ in range(CHUNKS):
        yield CHUNK


def stream(request):
    return Response(app_iter=chunks())


async def generator(request):
    for _ in range(CHUNKS):
        yield CHUNK


#: By the names of their tables, the sizes of files.
FILES = {"small": 4096, "large": 4 * 1024 * 1024}
BLOCK = 256 * 1024


def add_files(config):
    """The files of the folder that the environment names, as Pyramid serves them."""
    config.add_static_view("files", os.environ["FILES"])


def slow(request):
    time.sleep(0.1)
    return Response(HELLO)


def configured():
    config = Configurator(settings={"asgi.threads": str(THREADS)})
    add_views(config, hello, download, slow)
    if "FILES" in os.environ:
        add_files(config)
    return config


def add_views(config, *views):
    for view in views:
        name = view.__name__
        config.add_route(name, f"/{name}")
        config.add_view(view, route_name=name)


def wsgi_app():
    return configured().make_wsgi_app()


def ours():
    config = configured()
    config.include("pyramid_asgi_consumers")
    add_views(config, stream)
    return config.make_asgi_app()


def ours_generator():
    """The same body, from a view that is an async generator."""
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    config.add_route("stream", "/stream")
    config.add_view(generator, route_name="stream")
    return config.make_asgi_app()


def asgiref():
    return WsgiToAsgi(wsgi_app())


def inline():
    """No bridge, but the most that one could reach: Pyramid is called on the event loop."""
    application = wsgi_app()

    async def serve(scope, receive, send):
        if scope["type"] != "http":
            raise ValueError(scope["type"])
        started = []

        def start_response(status, headers, exc_info=None):
            encoded = [(name.lower().encode(), value.encode()) for name, value in headers]
            started.append({"status": int(status[:3]), "headers": encoded})

        environ = build_environ(scope)
        environ["wsgi.input"] = io.BytesIO()
        body = b"".join(application(environ, start_response))
        await send({"type": "http.response.start", **started[0]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return serve


def bare():
    return serve_bare


async def serve_bare(scope, receive, send):
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    if scope["path"] == "/stream":
        return await stream_bare(send)
    if scope["path"].startswith("/files/"):
        return await file_bare(scope["path"].removeprefix("/files/"), send)
    body = [HELLO] if scope["path"] == "/hello" else [CHUNK] * CHUNKS
    headers = [
        (b"content-type", b"text/html; charset=UTF-8"),
        (b"content-length", str(len(body) * len(body[0])).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for left, chunk in zip(reversed(range(len(body))), body, strict=True):
        await send({"type": "http.response.body", "body": chunk, "more_body": left > 0})


async def file_bare(name, send):
    with open(os.path.join(os.environ["FILES"], name), "rb") as file:
        left = os.fstat(file.fileno()).st_size
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(left).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while left:
            block = file.read(BLOCK)
            left -= len(block)
            await send({"type": "http.response.body", "body": block, "more_body": left > 0})


async def stream_bare(send):
    headers = [(b"content-type", b"text/html; charset=UTF-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for chunk in chunks():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
