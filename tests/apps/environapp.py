"""What a view is told, and what its answer may be, on each server."""

import io
import os

from pyramid.config import Configurator
from pyramid.exceptions import URLDecodeError
from pyramid.response import Response


def environ(request):
    texts = {key: value for key, value in request.environ.items() if isinstance(value, str)}
    return Response(json_body=texts)


def file(request):
    wrapper = request.environ["wsgi.file_wrapper"]
    return Response(app_iter=wrapper(io.BytesIO(b"x" * 300_000)), content_type="text/plain")


def status(request):
    return Response("So be it", status=f"{request.matchdict['status']} So Be It")


def not_text(error, request):
    path = request.environ["PATH_INFO"].encode("latin-1")
    return Response(b"not text: " + path, status=400, content_type="text/plain")


def not_found(request):
    return Response(f"no page {request.method} {request.environ['PATH_INFO']}", status=404)


async def consumer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a consumer"})


def make_app():
    with Configurator(settings={"asgi.root_path": os.environ.get("ROOT_PATH")}) as config:
        config.include("pyramid_asgi_consumers")
        pages = {"/": environ, "/environ": environ, "/file": file, "/status/{status}": status}
        for path, view in pages.items():
            config.add_route(path, path)
            config.add_view(view, route_name=path)
        config.add_notfound_view(not_found)
        config.add_view(not_text, context=URLDecodeError)
        config.add_tween("tests.support.wsgi.path_tween")
        config.add_asgi_consumer("/names/{name}", "http", consumer)
        return config.make_asgi_app()


app = make_app()
