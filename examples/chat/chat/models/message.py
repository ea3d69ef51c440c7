"""What was said, shown, and read."""

from datetime import datetime, timezone

from pyramid.httpexceptions import HTTPNotFound
from sqlalchemy import ForeignKey, UniqueConstraint, and_, func, select
from sqlalchemy.orm import Mapped, joinedload, mapped_column, relationship

from .meta import Base, flush
from .room import Exclusion, Room
from .user import User


def _now():
    # In UTC; SQLite keeps no zones.
    return datetime.now(timezone.utc).replace(tzinfo=None)


class Picture(Base):
    __tablename__ = "pictures"

    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id"))
    content_type: Mapped[str]
    data: Mapped[bytes]
    room: Mapped[Room] = relationship()

    def __acl__(self):
        return self.room.__acl__()


def find_picture(request):
    """The context of a picture's route."""
    picture = request.dbsession.get(Picture, int(request.matchdict["id"]))
    if picture is None:
        raise HTTPNotFound("There is no such picture.")
    return picture


class Message(Base):
    __tablename__ = "messages"
    __table_args__ = (UniqueConstraint("author_id", "key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id"), index=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    #: Which the page has made: what it sends twice, since it got no answer, is one message.
    key: Mapped[str]
    text: Mapped[str]
    picture_id: Mapped[int | None] = mapped_column(ForeignKey("pictures.id"))
    sent: Mapped[datetime] = mapped_column(default=_now)
    author: Mapped[User] = relationship()

    def as_dict(self, request):
        """What pages show: those that are rendered, and those that are told."""
        return {
            "id": self.id,
            "key": self.key,
            "author": self.author_id,
            "title": self.author.title,
            "text": self.text,
            "picture": self.picture_id and request.route_path("picture", id=self.picture_id),
            "sent": f"{self.sent:%Y-%m-%dT%H:%M:%SZ}",
        }


def newest_messages(request, room, before=None, limit=50):
    """The last messages, or the last of those before an id, in their order."""
    query = select(Message).filter_by(room_id=room.id).options(joinedload(Message.author))
    if before is not None:
        query = query.where(Message.id < before)
    rows = request.dbsession.scalars(query.order_by(Message.id.desc()).limit(limit)).all()
    return [row.as_dict(request) for row in reversed(rows)]


class Reading(Base):
    """How far somebody has read in a room."""

    __tablename__ = "readings"

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey("rooms.id"), primary_key=True)
    message_id: Mapped[int]


def mark_read(request, room, message_id):
    """Note that the user has read up to this message; return whether that is news."""
    dbsession = request.dbsession
    key = (request.authenticated_userid, room.id)
    newest = dbsession.scalar(select(func.max(Message.id)).filter_by(room_id=room.id)) or 0
    message_id = min(message_id, newest)
    reading = dbsession.get(Reading, key)
    if reading is None:
        reading = Reading(user_id=key[0], room_id=key[1], message_id=0)
        dbsession.add(reading)
        flush(dbsession)
    if message_id <= reading.message_id:
        return False
    reading.message_id = message_id
    return True


def rooms_of(request):
    """The rooms that the user may enter, each with the number of messages not read yet."""
    user_id = request.authenticated_userid
    query = (
        select(Room, func.count(Message.id))
        .outerjoin(Exclusion, and_(Exclusion.room_id == Room.id, Exclusion.user_id == user_id))
        .outerjoin(Reading, and_(Reading.room_id == Room.id, Reading.user_id == user_id))
        .outerjoin(
            Message,
            and_(
                Message.room_id == Room.id,
                Message.author_id != user_id,
                Message.id > func.coalesce(Reading.message_id, 0),
            ),
        )
        .group_by(Room.id)
        .order_by(Room.title)
    )
    if not request.identity.is_moderator:
        query = query.where(Exclusion.user_id.is_(None))
    return [
        {"name": room.name, "title": room.title, "topic": room.topic, "unread": unread}
        for room, unread in request.dbsession.execute(query)
    ]
