"""Inside Starlette's ``BaseHTTPMiddleware``: the tests of ``test_servers.py``."""

from tests.test_servers import *  # noqa: F403

AROUND = "base"
