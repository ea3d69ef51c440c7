"""What open pages hear."""

from contextlib import suppress

from pyramid_asgi_consumers import (
    ChannelsError,
    InvalidMessage,
    event_stream_config,
    websocket_config,
)

from .. import models


def member(request):
    """The user, as others see who is there."""
    return {"id": request.identity.id, "title": request.identity.title}


def read(request, message_id):
    """Note how far the user has read, and tell their other pages."""
    if models.mark_read(request, request.context, message_id):
        request.channels.publish(f"user:{request.authenticated_userid}", "read")


@websocket_config(
    "/rooms/{room}/live",
    name="live",
    permission="chat",
    factory=models.find_room,
    max_message=1000,
    max_rate="100/10s",
    max_connections_per_user=50,
)
async def live(websocket):
    """Tell an open room what is said in it and who is there."""
    name = websocket.path_params["room"]
    messages, people = f"room:{name}", f"people:{name}"
    # Where the page was rendered, or what it has heard last.
    since = websocket.request.GET.get("since")
    me = await websocket.run_in_request(member)
    await websocket.accept()
    options = {"envelope": True, "presence": me}
    if since is not None:
        options["since"] = {messages: since}
    try:
        async with websocket.relay(messages, people, **options):
            await tell(websocket.channels, people)
            while True:
                match await websocket.receive_json():
                    case {"who": _}:
                        present = await websocket.channels.present(people)
                        await websocket.send_json({"present": present})
                    case {"read": int(message_id)}:
                        await websocket.run_in_request(read, message_id)
                    case _:
                        raise InvalidMessage('expected {"who": …} or {"read": id}')
    finally:
        await tell(websocket.channels, people)


async def tell(channels, people):
    """Let the pages of a room ask who is there."""
    # While Redis is away they stay as they are; they ask from time to time anyway.
    with suppress(ChannelsError):
        await channels.publish(people, "changed")


def unread_counts(request):
    """By the name of each room the number of messages that were not read."""
    return {room["name"]: room["unread"] for room in models.rooms_of(request)}


@event_stream_config("/unread", name="unread")
async def unread(stream):
    """Tell how much is unread, at the start and whenever that may have changed."""
    # However much happens while one count is made, one more is made then.
    changes = stream.channels.subscribe("activity", f"user:{stream.userid}", max_queue=1)
    async with changes:
        await stream.send(await stream.run_in_request(unread_counts))
        # A gap, where something happened meanwhile, is as good as an event.
        async for _ in changes:
            await stream.send(await stream.run_in_request(unread_counts))
