from a2wsgi import WSGIMiddleware

from benchmarks.apps import THREADS, wsgi_app


def pages():
    return WSGIMiddleware(wsgi_app(), workers=THREADS)
