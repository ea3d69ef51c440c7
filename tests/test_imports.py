"""What a process imports that has this package in its Pyramid application."""

import subprocess
import sys

APPLICATION = """
import sys

from pyramid.config import Configurator

Configurator().make_wsgi_app()
before = {*sys.modules}

async def function(face):
    pass

config = Configurator()
config.include("pyramid_asgi_consumers")
config.add_websocket("/ws", function)
config.add_websocket("/guarded", function, permission="view")
config.add_event_stream("/events", function)
config.make_asgi_app()
print(*{*sys.modules} - before)
"""

#: What the package requires, and what that requires in turn.
REQUIRED = {"asgiref", "pyramid", "typing_extensions", "venusian", "webob", "zope"}
#: Parts of Python that cost more than most, and that nothing needs before it is used.
COSTLY = {"difflib", "multiprocessing", "sqlite3", "unittest", "xml"}
#: Parts of the package that are for those who ask for them.
ASKED_FOR = {
    f"pyramid_asgi_consumers.{name}" for name in ("channels.redis", "scripts", "servers", "testing")
}


def test_an_application_without_redis_imports_no_server_and_nothing_for_tests():
    ran = subprocess.run([sys.executable, "-c", APPLICATION], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    imported = set(ran.stdout.split())
    assert "pyramid_asgi_consumers.websocket.face" in imported
    packages = {name.partition(".")[0] for name in imported}
    others = packages - {"pyramid_asgi_consumers"} - sys.stdlib_module_names
    assert others <= REQUIRED
    assert not packages & COSTLY
    assert not imported & ASKED_FOR
