"""What is stored, and the session of each request."""

import zope.sqlalchemy
from sqlalchemy import engine_from_config
from sqlalchemy.orm import configure_mappers, sessionmaker

from .message import (  # noqa: F401
    Message,
    Picture,
    Reading,
    find_picture,
    mark_read,
    newest_messages,
    rooms_of,
)
from .meta import Base, flush  # noqa: F401
from .room import Exclusion, Room, find_room  # noqa: F401
from .user import User, check_password  # noqa: F401

configure_mappers()


def get_engine(settings, prefix="sqlalchemy."):
    return engine_from_config(settings, prefix)


def get_session_factory(engine):
    return sessionmaker(engine)


def get_tm_session(session_factory, transaction_manager):
    """Return a session that commits and aborts with the transactions of a manager."""
    dbsession = session_factory()
    zope.sqlalchemy.register(dbsession, transaction_manager=transaction_manager)
    return dbsession


def includeme(config):
    settings = config.get_settings()
    # Whoever uses a session outside of a transaction hears of it.
    settings["tm.manager_hook"] = "pyramid_tm.explicit_manager"
    config.include("pyramid_tm")
    config.include("pyramid_retry")

    # The engine of tests.
    dbengine = settings.get("dbengine") or get_engine(settings)
    session_factory = get_session_factory(dbengine)
    config.registry["dbsession_factory"] = session_factory

    def dbsession(request):
        # The session of tests.
        return request.environ.get("app.dbsession") or get_tm_session(session_factory, request.tm)

    config.add_request_method(dbsession, reify=True)
