"""What is said instead of a page."""

from pyramid.exceptions import BadCSRFToken
from pyramid.httpexceptions import HTTPClientError, HTTPForbidden, HTTPSeeOther
from pyramid.view import (
    exception_view_config,
    forbidden_view_config,
    notfound_view_config,
)

PAGE = "chat:templates/error.jinja2"


def is_page(request):
    """Whether somebody looks at the answer: scripts and sockets do not ask for HTML."""
    return "text/html" in request.headers.get("Accept", "")


@forbidden_view_config(renderer=PAGE)
def forbidden(request):
    if is_page(request) and not request.is_authenticated:
        query = {"next": request.path_qs} if request.method == "GET" else {}
        return HTTPSeeOther(request.route_path("login", _query=query))
    return answer(request, HTTPForbidden("You may not go in there."))


@notfound_view_config(renderer=PAGE, append_slash=True)
@exception_view_config(HTTPClientError, renderer=PAGE)
def client_error(error, request):
    return answer(request, error)


@exception_view_config(BadCSRFToken, renderer=PAGE)
def old_form(error, request):
    text = "This form is of another login, or too old. Load its page again, and send it once more."
    return answer(request, type(error)(text))


def answer(request, error):
    request.response.status = error.status
    text = error.detail or error.explanation
    if is_page(request):
        return {"title": error.title, "text": text}
    request.response.json_body = {"message": text}
    request.response.content_type = "application/json"
    return request.response
