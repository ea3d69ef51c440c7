"""The websocket of an open page."""

from pyramid_asgi_consumers import websocket_config

from .models import Message


def say(request, text):
    """Store what the user says, and tell all pages when that is committed."""
    message = Message(author=request.authenticated_userid, text=text)
    request.dbsession.add(message)
    request.dbsession.flush()
    request.channels.publish("chat", message.as_dict())


@websocket_config("/live", name="live", max_message=4000, max_rate="20/10s")
async def live(websocket):
    await websocket.accept()
    # The first thing that the page sends is how far it has heard.
    since = await websocket.receive_text()
    async with websocket.relay("chat", since=since, envelope=True):
        while True:
            await websocket.run_in_request(say, await websocket.receive_text())
