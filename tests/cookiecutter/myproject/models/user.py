from sqlalchemy import Column, Integer, Text

from .meta import Base


class User(Base):
    __tablename__ = "users"
    id = Column(Integer, primary_key=True)
    name = Column(Text, nullable=False, unique=True)
    password = Column(Text, nullable=False)


class Message(Base):
    __tablename__ = "messages"
    id = Column(Integer, primary_key=True)
    room = Column(Text, nullable=False)
    author = Column(Text, nullable=False)
    text = Column(Text, nullable=False)
