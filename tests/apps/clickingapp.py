"""A page with a websocket, whose session lasts for five seconds, by the lines of docs/users.rst.

Each click is a request that issues the session anew.
"""

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPSeeOther
from pyramid.response import Response
from pyramid.security import Allowed, Denied
from pyramid.session import SignedCookieSessionFactory

from tests.support.logs import log_to_stderr
from tests.support.pages import javascript

log_to_stderr()

PAGE = f"""<!doctype html>
<title>Clicks</title>
<button>Click</button> <output></output>
<ol></ol>
<script>
{javascript("users", "connect")}
function show(text) {{
    const item = document.createElement("li");
    item.textContent = text;
    document.querySelector("ol").append(item);
}}
connect(`ws://${{location.host}}/socket`, show, () => show("ended"));
let clicks = 0;
document.querySelector("button").addEventListener("click", async () => {{
    const response = await fetch("/click");
    document.querySelector("output").textContent = response.status + " " + ++clicks;
}});
</script>
"""


class Policy:
    """Whom the session names is logged in, and may do all."""

    def identity(self, request):
        return request.session.get("user")

    authenticated_userid = identity

    def permits(self, request, context, permission):
        return Allowed("in") if self.identity(request) else Denied("out")


def log_in(request):
    request.session["user"] = "ann"
    return HTTPSeeOther("/", headers=request.response.headers)


def home(request):
    return Response(PAGE)


def click(request):
    return Response("clicked")


def log_out(request):
    request.channels.disconnect()
    request.session.invalidate()
    return Response("bye")


async def socket(websocket):
    await websocket.accept()
    await websocket.send("opened")
    await websocket.wait_closed()


with Configurator(settings={"asgi.revalidate": "0.5"}) as config:
    config.include("pyramid_asgi_consumers")
    config.set_session_factory(SignedCookieSessionFactory("secret", timeout=5, reissue_time=0))
    config.set_security_policy(Policy())
    config.set_default_permission("view")
    for view in (home, click, log_out):
        path = "/" if view is home else f"/{view.__name__}"
        config.add_route(view.__name__, path)
        config.add_view(view, route_name=view.__name__)
    config.add_route("log_in", "/log_in")
    config.add_view(log_in, route_name="log_in", permission="__no_permission_required__")
    config.add_websocket("/socket", socket)
    app = config.make_asgi_app()
