from fastapi import FastAPI
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from pyramid.config import Configurator
from pyramid.response import Response
from pyramid_asgi_consumers import run_in_request

api = FastAPI()


@api.get("/rates/{currency}")
async def rate(currency: str) -> dict[str, float]:
    return {currency: 1.5}


class TokenPolicy:
    """It stands for the policy of your project."""

    def authenticated_userid(self, request):
        is_ann = request.headers.get("Authorization") == "Bearer token-of-ann"
        return "ann" if is_ann else None

    def permits(self, request, context, permission):
        return self.authenticated_userid(request) is not None


def say(request, text):
    message = {"author": request.authenticated_userid, "text": text}
    request.channels.publish("room", message)
    return message


tools = MCPServer("project")


@tools.tool()
async def speak(text: str, context: Context) -> dict[str, str]:
    """Say something in the room."""
    return await run_in_request(context.request_context.request.scope, say, text)


def main():
    with Configurator(settings={"asgi.channels.history": 10}) as config:
        config.include("pyramid_asgi_consumers")
        config.set_security_policy(TokenPolicy())
        config.add_route("home", "/")
        config.add_view(lambda request: Response("Hello"), route_name="home")
        # Open to everybody, with rules of its own.
        config.add_asgi_app("/api", api)
        # Guarded by the project's permission.
        mcp = tools.streamable_http_app()
        config.add_asgi_consumer("/mcp", "http", mcp, permission="use")
        config.add_asgi_lifespan(lambda registry: tools.session_manager.run())
        return config.make_asgi_app()
