"""The contracts kept in the registry."""

from zope.interface import Attribute, Interface


class IConsumerMapper(Interface):
    """The consumers that were declared."""

    def add(consumer):
        """Add a ``Consumer``, in place of one with the same protocol and path."""

    def has_consumers(protocol):
        """Whether any consumer was declared for ``protocol``."""

    def __call__(protocol, path):
        """Return ``(consumer, path_params)`` for ``path``, or None."""


class IGuards(Interface):
    """The list of the consumers that were declared but are not yet in the mapper."""


class ILifespanFactories(Interface):
    """The list of what ``config.add_asgi_lifespan`` was given, in order of declaration."""


class IASGIApplication(Interface):
    """What ``config.make_asgi_app()`` returns: an ASGI 3 application."""

    registry = Attribute("The Pyramid registry.")
    wsgi_app = Attribute("The WSGI application that answers what no consumer does.")
