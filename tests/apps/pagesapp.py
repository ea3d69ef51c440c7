"""A project whose pages go on from what they were rendered from: notes, in a database.

``POST /`` writes a note and publishes it in one transaction. ``GET /`` is a page: where the channel
stands, and all notes. ``/late`` and ``/queried`` are pages that read this in the wrong order; in
the midst of it they call what the registry has as ``meanwhile``.
"""

import secrets

import zope.sqlalchemy
from pyramid.config import Configurator
from sqlalchemy import create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

SETTINGS = {
    "pyramid.includes": "pyramid_tm",
    "tm.manager_hook": "pyramid_tm.explicit_manager",
    "asgi.channels.history": 100_000,
}


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def write(request):
    note = Note(text=secrets.token_hex(4))
    request.dbsession.add(note)
    request.dbsession.flush()
    request.channels.publish("notes", [note.id, note.text])
    return {"id": note.id}


def read(request):
    return [list(row) for row in request.dbsession.execute(select(Note.id, Note.text))]


def page(request):
    position = request.channels.position("notes")
    return {"position": position, "notes": read(request)}


def late_page(request):
    notes = read(request)
    request.registry.meanwhile()
    return {"position": request.channels.position("notes"), "notes": notes}


def page_that_has_queried(request):
    request.dbsession.scalar(select(1))
    request.registry.meanwhile()
    return page(request)


def make_engine(url, **options):
    """An empty database there."""
    engine = create_engine(url, pool_size=40, **options)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def connect(connection, record):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA busy_timeout = 30000")

    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    return engine


def make_app(engine, channels):
    config = Configurator(settings={**SETTINGS, "asgi.channels": channels})
    config.include("pyramid_asgi_consumers")
    factory = sessionmaker(engine)

    def dbsession(request):
        session = factory()
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    config.add_request_method(dbsession, reify=True)
    config.add_view(write, request_method="POST", renderer="json")
    config.add_view(page, request_method="GET", renderer="json")
    config.add_view(late_page, name="late", renderer="json")
    config.add_view(page_that_has_queried, name="queried", renderer="json")
    return config.make_asgi_app()
