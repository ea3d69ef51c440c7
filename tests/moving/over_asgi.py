"""A plugin for pytest, ``-p over_asgi``: the suite at hand is run as if its project had moved.

Every ``Configurator`` that makes a WSGI application includes the add-on, and ``webtest.TestApp`` is
that of ``pyramid_asgi_consumers.testing``, over the ASGI application that this ``Configurator``
makes of it. Applications that are not Pyramid's are put behind a bridge, too. At the end stands how
many there were.
"""

import os
import weakref
from unittest import mock

import webtest
from pyramid.config import Configurator
from pyramid.router import Router

from pyramid_asgi_consumers.testing import TestApp

make_wsgi_app = Configurator.make_wsgi_app
webtest_app = webtest.TestApp
configs = weakref.WeakKeyDictionary()
made = []


def make_wsgi_app_with_the_addon(config):
    config.include("pyramid_asgi_consumers")
    app = make_wsgi_app(config)
    configs[app] = config
    return app


def config_of(app):
    while app is not None:
        if isinstance(app, Router):
            return configs[app]
        # Middleware keeps what it wraps there.
        app = getattr(app, "app", None)
    config = Configurator()
    config.include("pyramid_asgi_consumers")
    return config


class OverASGI(TestApp):
    def __init__(self, app, *args, **kw):
        # It makes applications of URIs, and proxies of URLs.
        app = webtest_app(app, *args, **kw).app
        app = config_of(app).make_asgi_app(app)
        made.append(app)
        with mock.patch.dict(os.environ):
            os.environ.pop("WEBTEST_TARGET_URL", None)
            super().__init__(app, *args, **kw)


Configurator.make_wsgi_app = make_wsgi_app_with_the_addon
webtest.TestApp = webtest.app.TestApp = OverASGI


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{len(made)} applications over ASGI")
