"""The rooms, a room, and what is said in it."""

import re
import secrets

from pyramid.httpexceptions import (
    HTTPBadRequest,
    HTTPRequestEntityTooLarge,
    HTTPSeeOther,
    HTTPUnsupportedMediaType,
)
from pyramid.view import view_config
from sqlalchemy import select

from .. import models
from .fields import id_of, text_of

MAX_TEXT = 4000
#: Bytes. The setting asgi.max_body_size stops what is much larger before it is read.
MAX_PICTURE = 2_000_000
#: How many messages a page shows.
PAGE = 50

KEY = re.compile(r"[0-9a-f]{32}")

#: How the files of browsers' picture formats begin. What a client says of a file is not asked.
FORMATS = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}


@view_config(route_name="rooms", renderer="chat:templates/rooms.jinja2")
def rooms(request):
    return {"rooms": models.rooms_of(request)}


@view_config(route_name="room", permission="chat", renderer="chat:templates/room.jinja2")
def room(request):
    room = request.context
    before = id_of(request.GET, "before")
    # The position is read first: what is committed after the rows were read is behind it.
    since = request.channels.position(f"room:{room.name}")
    messages = models.newest_messages(request, room, before, PAGE)
    return {
        "room": room,
        "rooms": models.rooms_of(request),
        "messages": messages,
        "present": sorted(
            request.channels.present(f"people:{room.name}"), key=lambda member: member["title"]
        ),
        "since": since,
        "before": before,
        "earlier": messages[0]["id"] if len(messages) == PAGE else None,
        # Of the message that is sent without a script.
        "key": secrets.token_hex(16),
        "max_text": MAX_TEXT,
        "max_picture": MAX_PICTURE,
        "formats": ",".join(FORMATS),
    }


@view_config(route_name="messages", request_method="GET", permission="chat", renderer="json")
def newest(request):
    """For a page that has missed more than the channel remembers."""
    return {"messages": models.newest_messages(request, request.context, limit=PAGE)}


@view_config(route_name="messages", request_method="POST", permission="chat", accept="text/html")
def say_without_script(request):
    say(request)
    return HTTPSeeOther(request.route_path("room", room=request.context.name))


@view_config(
    route_name="messages",
    request_method="POST",
    permission="chat",
    accept="application/json",
    renderer="json",
)
def say(request):
    """Store what the form says; when that is committed, all pages hear of it."""
    room = request.context
    dbsession = request.dbsession
    key = text_of(request.POST, "key")
    text = text_of(request.POST, "text").strip()
    if not KEY.fullmatch(key):
        raise HTTPBadRequest("The form lacks the key of its message.")
    if len(text) > MAX_TEXT:
        raise HTTPBadRequest(f"A message has {MAX_TEXT} characters at most.")
    author = request.identity
    query = select(models.Message).filter_by(author_id=author.id, key=key)
    message = dbsession.scalar(query)
    if message is None:
        picture = _picture(request)
        if not text and picture is None:
            raise HTTPBadRequest("The message is empty.")
        message = models.Message(room_id=room.id, author=author, key=key, text=text)
        if picture is not None:
            dbsession.add(picture)
            models.flush(dbsession)
            message.picture_id = picture.id
        dbsession.add(message)
        models.flush(dbsession)
        request.channels.publish(f"room:{room.name}", message.as_dict(request))
        request.channels.publish("activity", room.name)
    return message.as_dict(request)


def _picture(request):
    upload = request.POST.get("picture")
    # Without a file browsers send an empty text.
    if not hasattr(upload, "file"):
        return None
    data = upload.file.read(MAX_PICTURE + 1)
    if len(data) > MAX_PICTURE:
        raise HTTPRequestEntityTooLarge("A picture has 2 MB at most.")
    for content_type, beginning in FORMATS.items():
        if beginning.match(data):
            return models.Picture(room_id=request.context.id, content_type=content_type, data=data)
    raise HTTPUnsupportedMediaType("A picture is a PNG, JPEG, GIF or WebP.")


@view_config(route_name="picture", request_method="GET", permission="chat")
def picture(request):
    response = request.response
    response.content_type = request.context.content_type
    response.body = request.context.data
    response.cache_control = "private, max-age=31536000, immutable"
    # Should a browser take it for a page all the same, nothing in it runs.
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response
