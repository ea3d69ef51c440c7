"""What Pyramid calls and nobody awaits: a check that is async would not run, and let all pass."""

import inspect

from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import (
    IAuthenticationPolicy,
    IAuthorizationPolicy,
    ICSRFStoragePolicy,
    IRootFactory,
    IRoutesMapper,
    ISecurityPolicy,
)

from pyramid_asgi_consumers.config.shapes import is_coroutine_function

_METHODS = {
    ISecurityPolicy: ("permits", "identity", "authenticated_userid"),
    IAuthenticationPolicy: (
        "authenticated_userid",
        "unauthenticated_userid",
        "effective_principals",
    ),
    IAuthorizationPolicy: ("permits",),
    ICSRFStoragePolicy: ("check_csrf_token",),
}


def refuse_coroutine_functions(config):
    """Raise ConfigurationError where a factory, policy or predicate is surely async."""
    registry = config.registry
    _refuse("the root factory", registry.queryUtility(IRootFactory))
    for route in registry.getUtility(IRoutesMapper).get_routes(include_static=True):
        _refuse(f"factory of the route {route.name!r}", route.factory)
    for interface, names in _METHODS.items():
        policy = registry.queryUtility(interface)
        for name in names:
            _refuse(f"{name} of {policy!r}", getattr(policy, name, None))
    for kind in ("route", "view"):
        for name, predicate in config.get_predlist(kind).sorter.sorted():
            if inspect.isclass(predicate):
                _refuse(f"the {kind} predicate {name}", predicate.__call__)


def _refuse(what, function):
    if is_coroutine_function(function):
        raise ConfigurationError(
            f"make_asgi_app: {what} must be def, not async: {function!r}. Nobody awaits what it"
            " returns, so it would check nothing"
        )
