"""A page and the websocket that it talks to: ``daphne examples.echo:app``."""

from pyramid.config import Configurator
from pyramid.response import Response

PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Echo</title>
<h1>Echo</h1>
<form><input autofocus placeholder="Say something"> <button>Send</button></form>
<ul></ul>
<script>
const scheme = location.protocol === "https:" ? "wss:" : "ws:";
const socket = new WebSocket(`${scheme}//${location.host}/ws`);
const show = (text) => {
  const item = document.createElement("li");
  item.textContent = text;
  document.querySelector("ul").append(item);
};
socket.binaryType = "arraybuffer";
socket.onopen = () => {
  socket.send("Hello, socket");
  socket.send("");
  socket.send(new Uint8Array([1, 2, 3]));
};
socket.onmessage = ({data}) => {
  show(typeof data === "string" ? `text: ${data}` : `bytes: ${new Uint8Array(data)}`);
};
socket.onclose = () => show("closed");
document.querySelector("form").onsubmit = (event) => {
  event.preventDefault();
  socket.send(event.target.elements[0].value);
  event.target.reset();
};
</script>
</html>
"""


def home(request):
    return Response(PAGE)


async def echo(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


def main(global_config, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_asgi_consumers")
        config.add_route("home", "/")
        config.add_view(home, route_name="home")
        config.add_asgi_consumer("/ws", "websocket", echo)
        return config.make_asgi_app()


app = main({})
