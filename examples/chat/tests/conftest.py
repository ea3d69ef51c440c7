import hashlib
from pathlib import Path

import pytest
from pyramid.paster import get_appsettings
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from chat import main, models
from chat.scripts.initialize_db import PEOPLE, ROOMS
from pyramid_asgi_consumers import testing

HERE = Path(__file__).parent

#: A password that is checked at once.
CHEAP = (2, 1, 1)


class TestApp(testing.TestApp):
    """A browser, with the cookies of somebody."""

    __test__ = False

    #: That of the forms of this session.
    token = None

    def submit(self, page, **fields):
        """Fill in the last form of a page, and send it; return what comes."""
        form = list(self.get(page).forms.values())[-1]
        for name, value in fields.items():
            form[name] = value
        return form.submit(headers={"Accept": "text/html"}, status="*")

    def log_in(self, name, password="secret"):
        return self.submit("/login", name=name, password=password)

    def post_as_script(self, url, fields, **options):
        """Send fields as the scripts of the chat's pages do."""
        if self.token is None:
            self.token = self.get("/").forms[0]["csrf_token"].value
        headers = {"Accept": "application/json", "X-CSRF-Token": self.token}
        return self.post(url, fields, headers=headers, **options)

    def say(self, text="", room="kitchen", key=None, **options):
        key = key or hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        url = f"/rooms/{room}/messages"
        return self.post_as_script(url, {"text": text, "key": key}, **options)

    def moderate(self, user_id, what, **options):
        """Put somebody out of the kitchen, or let them in."""
        fields = {"user": user_id, what: "1"}
        return self.post_as_script("/rooms/kitchen/people", fields, **options)

    def since(self, room="kitchen"):
        """Where the live part of a room's page begins."""
        return self.get(f"/rooms/{room}").html.main["data-since"]


@pytest.fixture(scope="session")
def app_settings():
    return get_appsettings(str(HERE.parent / "testing.ini"))


@pytest.fixture(scope="session")
def engine():
    """A database in which requests commit."""
    engine = create_engine("sqlite://")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def app(app_settings, engine):
    return main({}, dbengine=engine, **app_settings)


@pytest.fixture(autouse=True)
def rows(engine):
    """What is in the database when a test begins."""
    fill(engine)
    yield
    models.Base.metadata.drop_all(engine)


@pytest.fixture
def own_engine(tmp_path):
    """A database with more than one connection."""
    engine = create_engine(f"sqlite:///{tmp_path}/chat.sqlite")
    fill(engine)
    yield engine
    engine.dispose()


def fill(engine):
    """Create the tables, the rooms and the people."""
    models.Base.metadata.create_all(engine)
    with Session(engine) as dbsession, dbsession.begin():
        dbsession.add_all(models.Room(**room) for room in ROOMS)
        for person in PEOPLE:
            user = models.User(**person)
            user.set_password("secret", CHEAP)
            dbsession.add(user)


@pytest.fixture
def visit():
    """A function that opens an application in the browser of somebody who is logged in."""

    def visit(app, name):
        testapp = TestApp(app)
        testapp.log_in(name)
        return testapp

    return visit


@pytest.fixture
def stranger(app):
    return TestApp(app)


@pytest.fixture
def ann(app, visit):
    return visit(app, "ann")


@pytest.fixture
def bob(app, visit):
    return visit(app, "bob")


@pytest.fixture
def eve(app, visit):
    return visit(app, "eve")
