"""Inside Starlette's ``BaseHTTPMiddleware`` and other middleware: ``test_users_servers.py``."""

import pytest

from tests.servers.test_users_servers import *  # noqa: F403

pytestmark = pytest.mark.around

AROUND = "base"

#: One whose tasks are its own, and one that waits for them.
SERVERS = ("uvicorn-sansio", "hypercorn")
