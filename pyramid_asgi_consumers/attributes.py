"""Adds attributes to Pyramid's request that cost next to nothing until they are used."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

UNSET = object()


class RequestAttributes:
    """Attributes for requests: ``config.add_request_method(RequestAttributes(), "__class__")``.

    Pyramid binds each method it is given to every request, so that each is a reference cycle that
    waits for the garbage collector, and makes a class for every request that has a property. It
    asks this for a request's ``__class__``, which is that of the request with the attributes, made
    once for all of its kind.
    """

    def __init__(self) -> None:
        self._attributes: dict[str, _Attribute] = {}
        # Bounded, for classes that were made for one request.
        self._extended = lru_cache(maxsize=32)(self._extend)

    def add(self, name: str, get: Callable[[Any], Any]) -> None:
        """Add the attribute ``name``: ``get(request)``, or what was assigned to it."""
        self._attributes[name] = _Attribute(name, get)
        self._extended.cache_clear()

    def __get__(self, request: Any, owner: type) -> type:
        """Called by ``pyramid.request.apply_request_extensions``."""
        return self._extended(owner)

    def _extend(self, owner: type) -> type:
        own = self._attributes
        if all(getattr(owner, name, None) is own[name] for name in own):
            return owner
        extended = type(owner.__name__, (owner,), {"__slots__": (), **own})
        extended.__module__ = owner.__module__
        # As Pyramid does: otherwise zope.interface would keep each class for ever.
        for name in ("__implemented__", "__provides__"):
            if hasattr(owner, name):
                setattr(extended, name, getattr(owner, name))
        return extended


class _Attribute:
    def __init__(self, name: str, get: Callable[[Any], Any]) -> None:
        self.name = name
        self.get = get
        self.__doc__ = get.__doc__

    def __get__(self, request: Any, owner: type | None = None) -> Any:
        if request is None:
            return self
        assigned = request.__dict__.get(self.name, UNSET)
        return self.get(request) if assigned is UNSET else assigned

    def __set__(self, request: Any, value: Any) -> None:
        request.__dict__[self.name] = value

    def __delete__(self, request: Any) -> None:
        try:
            del request.__dict__[self.name]
        except KeyError:
            raise AttributeError(self.name) from None
