#!/usr/bin/env bash
# webtest_suite.sh [PYTEST ARGUMENT ...]: run WebTest's own tests over WSGI, then over this TestApp.
#
# They come from WebTest's sdist, and run in an environment of their own, both below a temporary
# directory. Apart are the two tests that ask a server by its URL, for which WebTest has a proxy.
set -euo pipefail

here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv env
env/bin/pip --quiet install "$here" webtest pytest PasteDeploy WSGIProxy2 pyquery "setuptools<82"
version=$(env/bin/python -c "import importlib.metadata as m; print(m.version('webtest'))")
env/bin/pip --quiet download --no-binary :all: --no-deps "webtest==$version"
tar -xf ./*.tar.gz --strip-components=1 --wildcards "*/tests"

cat > over_asgi.py <<'PLUGIN'
"""Has the tests' TestApp serve each WSGI application behind the bridge."""

import webtest
from paste.deploy import loadapp
from pyramid.config import Configurator

from pyramid_asgi_consumers.testing import TestApp


class OverASGI(TestApp):
    def __init__(self, app, *args, **kw):
        if isinstance(app, str):
            app = loadapp(app, relative_to=kw.get("relative_to"))
        with Configurator() as config:
            config.include("pyramid_asgi_consumers")
            super().__init__(config.make_asgi_app(app), *args, **kw)


webtest.TestApp = OverASGI
PLUGIN

run() {
    env/bin/python -m pytest -q --disable-warnings -c /dev/null --rootdir . -p no:cacheprovider "$@" tests
}
echo "WebTest $version over WSGI"
run "$@"
echo "WebTest $version over ASGI"
PYTHONPATH=. run -p over_asgi --deselect tests/test_app.py::TestWSGIProxy "$@"
