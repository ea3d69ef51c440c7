from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.exceptions import WebSocketDisconnect


@websocket("/ws")
async def room(socket: WebSocket, channels: ChannelsPlugin) -> None:
    await socket.accept()
    async with (
        channels.start_subscription(["news"]) as subscriber,
        subscriber.run_in_background(socket.send_text),
    ):
        try:
            while True:
                channels.publish(f'"{await socket.receive_text()}"', "news")
        except WebSocketDisconnect:
            pass


def broadcast():
    """The plugin for channels."""
    plugin = ChannelsPlugin(MemoryChannelsBackend(), channels=["news"])
    return Litestar([room], plugins=[plugin])
