import pytest

from tests.support.project import make_config, make_engine
from tests.support.threads import Held


@pytest.fixture
def engine(tmp_path):
    engine = make_engine(tmp_path / "database")
    yield engine
    engine.dispose()


@pytest.fixture
def config(engine):
    return make_config(engine)


@pytest.fixture
async def held():
    held = Held()
    yield held
    held.go_on()
