from pyramid_asgi_consumers import asgi_consumer_config, run_in_request

from .. import models


def add_message(request, text):
    author = request.authenticated_userid
    request.dbsession.add(models.Message(author=author, text=text, **request.matchdict))
    request.dbsession.flush()
    return author


@asgi_consumer_config("/chat/{room}", "websocket", name="chat", permission="chat")
async def chat(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        author = await run_in_request(scope, add_message, message["text"])
        await send({"type": "websocket.send", "text": f"{author}: {message['text']}"})
