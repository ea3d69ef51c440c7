"""Where people talk, and who may not."""

from pyramid.authorization import Allow, Authenticated, Deny
from pyramid.httpexceptions import HTTPNotFound
from sqlalchemy import ForeignKey, select
from sqlalchemy.orm import Mapped, mapped_column, relationship

from .meta import Base


class Exclusion(Base):
    """Somebody was put out of a room."""

    __tablename__ = "exclusions"

    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)


class Room(Base):
    __tablename__ = "rooms"

    id: Mapped[int] = mapped_column(primary_key=True)
    #: That of its URL and of its channels.
    name: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    topic: Mapped[str] = mapped_column(default="")
    exclusions: Mapped[list[Exclusion]] = relationship(cascade="all, delete-orphan")

    def __acl__(self):
        return [
            (Allow, "moderator", ("chat", "moderate")),
            *((Deny, f"user:{exclusion.user_id}", "chat") for exclusion in self.exclusions),
            (Allow, Authenticated, "chat"),
        ]


def find_room(request):
    """The context of a room's routes."""
    room = request.dbsession.scalar(select(Room).filter_by(name=request.matchdict["room"]))
    if room is None:
        raise HTTPNotFound("There is no such room.")
    return room
