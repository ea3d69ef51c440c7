"""The pages."""

from pyramid.httpexceptions import HTTPSeeOther
from pyramid.security import NO_PERMISSION_REQUIRED, forget, remember
from pyramid.view import forbidden_view_config, view_config

from .models import User, newest_messages


@view_config(route_name="chat", renderer="templates/chat.jinja2")
def chat(request):
    # First where the channel stands, then the rows: what is said meanwhile comes
    # after it.
    since = request.channels.position("chat")
    return {"since": since, "messages": newest_messages(request.dbsession)}


@view_config(
    route_name="login",
    renderer="templates/login.jinja2",
    permission=NO_PERMISSION_REQUIRED,
)
def login(request):
    if request.method != "POST":
        return {"failed": False}
    user = request.dbsession.get(User, request.POST["name"])
    if user is None or not user.has_password(request.POST["password"]):
        return {"failed": True}
    return HTTPSeeOther(request.route_path("chat"), headers=remember(request, user.name))


@view_config(route_name="logout", request_method="POST")
def logout(request):
    request.channels.disconnect(reason="logged out")
    return HTTPSeeOther(request.route_path("login"), headers=forget(request))


@forbidden_view_config()
def forbidden(request):
    return HTTPSeeOther(request.route_path("login"))
