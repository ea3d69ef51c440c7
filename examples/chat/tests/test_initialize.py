"""The script that creates the database."""

from pathlib import Path

import pytest
from pyramid.paster import get_app
from sqlalchemy import func, select

from chat import models
from chat.scripts.initialize_db import main

TESTING = Path(__file__).parent.parent / "testing.ini"


@pytest.fixture
def ini(tmp_path):
    text = TESTING.read_text().replace("sqlite://", f"sqlite:///{tmp_path}/chat.sqlite")
    ini = tmp_path / "chat.ini"
    ini.write_text(text)
    return str(ini)


def test_the_database_is_created_once_and_stays_as_it_is(ini, visit, capsys):
    main([ini, "--password", "first"])
    main([ini, "--password", "second"])
    assert "Log in as ann, bob, eve" in capsys.readouterr().out
    app = get_app(ini)
    with app.registry["dbsession_factory"]() as dbsession:
        assert dbsession.scalar(select(func.count(models.User.id))) == 3
        assert dbsession.scalar(select(func.count(models.Room.id))) == 3
        assert models.check_password(dbsession.get(models.User, 1), "first")
        dbsession.get_bind().dispose()
