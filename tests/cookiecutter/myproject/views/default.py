from pyramid.httpexceptions import HTTPUnauthorized
from pyramid.security import remember
from pyramid.view import forbidden_view_config, view_config

from .. import models


@view_config(route_name="login", renderer="json", request_method="POST")
def login(request):
    fields = request.json_body
    user = request.dbsession.query(models.User).filter_by(name=fields["name"]).first()
    if user is None or user.password != fields["password"]:
        raise HTTPUnauthorized
    request.response.headers.extend(remember(request, user.id))
    return {"name": user.name}


@view_config(route_name="messages", renderer="json", permission="chat")
def messages(request):
    found = request.dbsession.query(models.Message).filter_by(**request.matchdict)
    return [[message.author, message.text] for message in found]


@forbidden_view_config(renderer="json")
def forbidden(request):
    request.response.status = 403
    return {"error": "log in first"}
