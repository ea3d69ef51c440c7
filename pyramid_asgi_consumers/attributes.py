"""Attributes of Pyramid's request that cost a request nothing until they are used."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

# What Pyramid is given to set on a request that has the attribute already.
HAD = object()


class RequestAttribute:
    """For ``config.add_request_method(RequestAttribute(name, get), name)``: an attribute ``name``.

    Its value is ``get(request)``, made at each access; or what was assigned to it, until that is
    deleted. Pyramid itself binds a method to every request, which makes each a reference cycle
    that waits for the garbage collector, and makes a class for every request with a property.
    Here requests get a class that has the attribute, made once for each of their classes.
    """

    def __init__(self, name: str, get: Callable[[Any], Any]) -> None:
        self.name = name
        self._descriptor = _Descriptor(name, get)
        # Bounded, for classes that were made for one request.
        self._extended = lru_cache(maxsize=32)(self._extend)

    def __get__(self, request: Any, owner: type) -> object:
        """Called by ``pyramid.request.apply_request_extensions``, which sets what is returned."""
        request.__class__ = self._extended(owner)
        return HAD

    def _extend(self, owner: type) -> type:
        if getattr(owner, self.name, None) is self._descriptor:
            return owner
        own = {"__slots__": (), "__module__": owner.__module__, self.name: self._descriptor}
        return type(owner.__name__, (owner,), own)


class _Descriptor:
    def __init__(self, name: str, get: Callable[[Any], Any]) -> None:
        self.name = name
        self.get = get
        self.__doc__ = get.__doc__

    def __get__(self, request: Any, owner: type | None = None) -> Any:
        if request is None:
            return self
        assigned = request.__dict__.get(self.name, HAD)
        return self.get(request) if assigned is HAD else assigned

    def __set__(self, request: Any, value: Any) -> None:
        if value is not HAD:
            request.__dict__[self.name] = value

    def __delete__(self, request: Any) -> None:
        try:
            del request.__dict__[self.name]
        except KeyError:
            raise AttributeError(self.name) from None
