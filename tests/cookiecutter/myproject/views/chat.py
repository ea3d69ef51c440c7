from pyramid_asgi_consumers import asgi_consumer_config, run_in_request, websocket_config

from .. import models


def add_message(request, text):
    author = request.authenticated_userid
    request.dbsession.add(models.Message(author=author, text=text, **request.matchdict))
    request.dbsession.flush()
    request.channels.publish(f"chat:{request.matchdict['room']}", [author, text])
    return author


@asgi_consumer_config("/chat/{room}", "websocket", name="chat", permission="chat")
async def chat(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        author = await run_in_request(scope, add_message, message["text"])
        await send({"type": "websocket.send", "text": f"{author}: {message['text']}"})


@websocket_config("/listen/{room}", permission="chat")
async def listen(websocket):
    await websocket.accept()
    async with websocket.relay(f"chat:{websocket.path_params['room']}"):
        await websocket.wait_closed()
