"""What is stored, and the database session of each request."""

import hashlib
import hmac
import os

import zope.sqlalchemy
from sqlalchemy import ForeignKey, engine_from_config, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    name: Mapped[str] = mapped_column(primary_key=True)
    salt: Mapped[bytes]
    password: Mapped[bytes]

    @classmethod
    def with_password(cls, name, password):
        salt = os.urandom(16)
        return cls(name=name, salt=salt, password=_hashed(password, salt))

    def has_password(self, password):
        return hmac.compare_digest(self.password, _hashed(password, self.salt))


def _hashed(password, salt):
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


class Message(Base):
    __tablename__ = "messages"
    id: Mapped[int] = mapped_column(primary_key=True)
    author: Mapped[str] = mapped_column(ForeignKey("users.name"))
    text: Mapped[str]

    def as_dict(self):
        return {"id": self.id, "author": self.author, "text": self.text}


def newest_messages(dbsession, number=100):
    """The last messages, the oldest of them first."""
    query = select(Message).order_by(Message.id.desc()).limit(number)
    return [message.as_dict() for message in reversed(dbsession.scalars(query).all())]


def includeme(config):
    settings = config.get_settings()
    # Whoever uses a session outside of a transaction hears of it.
    settings["tm.manager_hook"] = "pyramid_tm.explicit_manager"
    config.include("pyramid_tm")
    engine = engine_from_config(settings)
    Base.metadata.create_all(engine)
    session_factory = sessionmaker(engine)
    with session_factory.begin() as session:
        # Those who may try it, each with their own name as the password.
        for name in settings.get("tutorial.users", "").split():
            session.merge(User.with_password(name, name))

    def dbsession(request):
        session = session_factory()
        zope.sqlalchemy.register(session, transaction_manager=request.tm)
        return session

    config.add_request_method(dbsession, reify=True)
    config.registry["dbengine"] = engine
