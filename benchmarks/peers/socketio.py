import socketio


def broadcast():
    server = socketio.AsyncServer(async_mode="asgi", ping_interval=3600)

    @server.event
    async def say(sid, text):
        await server.emit("news", text)

    return socketio.ASGIApp(server)
