"""A small application as WebTest users have them: pages, forms, uploads, cookies, JSON, streams."""

import hashlib
import os
from pathlib import Path

from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPFound
from pyramid.response import FileResponse, Response
from pyramid.security import forget, remember
from pyramid.session import SignedCookieSessionFactory
from pyramid.view import view_config, view_defaults

PASSWORDS = {"anna": "secret"}


class Policy:
    def __init__(self):
        self.helper = SessionAuthenticationHelper()

    def authenticated_userid(self, request):
        return request.environ.get("REMOTE_USER") or self.helper.authenticated_userid(request)

    def permits(self, request, context, permission):
        return self.authenticated_userid(request) is not None

    def remember(self, request, userid, **kw):
        return self.helper.remember(request, userid, **kw)

    def forget(self, request, **kw):
        return self.helper.forget(request, **kw)


@view_config(route_name="home")
def home(request):
    return Response('<h1>Notebook</h1><a href="/login">Log in</a>')


@view_defaults(route_name="login")
class Login:
    def __init__(self, request):
        self.request = request

    @view_config(request_method="GET")
    def form(self):
        token = self.request.session.get_csrf_token()
        return Response(
            '<form action="/login" method="post"><input name="name">'
            f'<input name="csrf_token" type="hidden" value="{token}">'
            '<input name="password" type="password"><select name="language">'
            '<option value="de">Deutsch</option><option value="en">English</option></select>'
            '<input type="submit" name="go" value="Log in"></form>'
        )

    @view_config(request_method="POST", require_csrf=True, renderer="json")
    def submit(self):
        fields = self.request.POST
        if PASSWORDS.get(fields["name"]) != fields["password"]:
            self.request.response.status = 422
            return {"error": "wrong name or password"}
        response = HTTPFound("/me", headers=remember(self.request, fields["name"]))
        response.set_cookie("language", fields["language"])
        return response


@view_config(route_name="me", renderer="json", permission="view")
def me(request):
    language = request.cookies.get("language")
    return {"name": request.authenticated_userid, "language": language}


@view_config(route_name="logout")
def logout(request):
    response = HTTPFound("/", headers=forget(request))
    response.delete_cookie("language")
    return response


@view_config(context="pyramid.httpexceptions.HTTPForbidden", renderer="json")
def forbidden(request):
    request.response.status = 403
    return {"error": "log in first"}


@view_config(route_name="upload", renderer="json")
def upload(request):
    return {
        name: [field.filename, field.type, hashlib.sha256(field.file.read()).hexdigest()]
        if hasattr(field, "filename")
        else field
        for name, field in request.POST.items()
    }


@view_config(route_name="json", renderer="json")
def echo_json(request):
    return {"method": request.method, "body": request.json_body}


@view_config(route_name="stream")
def stream(request):
    def chunks():
        for number in range(int(request.GET["chunks"])):
            yield b"%d\n" % number
        if "fails" in request.GET:
            raise RuntimeError("in the middle")

    return Response(app_iter=chunks(), content_type="text/plain")


@view_config(route_name="file")
def file(request):
    return FileResponse(__file__, request, content_type="text/x-python")


@view_config(route_name="environ", renderer="json")
def environ(request):
    return {
        key: value
        for key, value in request.environ.items()
        if isinstance(value, str | bool | int) or value is None
    }


@view_config(route_name="fail")
def fail(request):
    raise LookupError("in the view")


@view_config(route_name="errors")
def errors(request):
    request.environ["wsgi.errors"].write("something is wrong")
    return Response("fine")


@view_config(route_name="status")
def status(request):
    return Response(status=int(request.matchdict["status"]))


@view_config(route_name="gzip")
def gzip(request):
    response = Response("x" * 1000)
    response.encode_content()
    return response


@view_config(route_name="bad header")
def bad_header(request):
    response = Response("x")
    response.headerlist.append(("Bad Name", "x"))
    return response


def configure(**settings):
    config = Configurator(settings=settings)
    config.set_security_policy(Policy())
    config.set_session_factory(SignedCookieSessionFactory("secret"))
    for name in ("home", "login", "me", "logout", "upload", "json", "stream", "file", "environ"):
        config.add_route(name, "/" if name == "home" else f"/{name}")
    config.add_route("fail", "/fail")
    config.add_route("errors", "/errors")
    config.add_route("gzip", "/gzip")
    config.add_route("bad header", "/bad-header")
    config.add_route("status", "/status/{status}")
    config.add_static_view("static", os.fspath(Path(__file__).parent))
    config.scan(__name__)
    return config
