import pytest

from tests.support.servers import COMMANDS, running


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, tmp_path_factory):
    """Each ASGI server in turn, with the application that the module names as its ``APP``."""
    directory = tmp_path_factory.mktemp(request.param)
    with running(request.param, directory, request.module.APP) as server:
        yield server
