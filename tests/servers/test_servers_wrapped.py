"""Inside middleware that wraps ``receive`` and ``send``: the tests of ``test_servers.py``."""

import pytest

from tests.servers.test_servers import *  # noqa: F403

pytestmark = pytest.mark.around

AROUND = "wrapped"
