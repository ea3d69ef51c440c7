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


class IRequestAttributes(Interface):
    """What the add-on gives to Pyramid's requests."""

    def add(name, get):
        """Add the attribute ``name``: ``get(request)``, or what was assigned to it."""


class ILifespanFactories(Interface):
    """The list of what ``config.add_asgi_lifespan`` was given, in order of declaration."""


class IHandshakes(Interface):
    """The ``Handshakes`` of the application that ``config.make_asgi_app()`` made last."""


class IASGIApplication(Interface):
    """What ``config.make_asgi_app()`` returns: an ASGI 3 application."""

    registry = Attribute("The Pyramid registry.")
    wsgi_app = Attribute("The WSGI application that answers what no consumer does.")


class IChannelsBackend(Interface):
    """What carries the events of channels; given to ``config.set_channels_backend``.

    Names and payloads arrive checked and encoded: see :mod:`pyramid_asgi_consumers.channels.base`,
    whose ``make_event`` makes an event of a payload. If it has an attribute ``timeout``, publishers
    wait so many seconds for what was committed before, and otherwise 5.
    """

    def publish_many(messages):
        """Publish each ``(channel, payload)`` in order, from any thread, blocking.

        Return, for each, the id of the event or the ``ChannelsError`` that kept it back.
        """

    def publish(channel, payload):
        """Publish on the running event loop; awaited. Return the id, or raise ChannelsError."""

    def attach(subscription):
        """Hand what is published from now on to ``subscription.put``; awaited.

        What was published on a channel after ``subscription.since[channel]`` comes first, through
        ``subscription.replay``.
        """

    def detach(subscription):
        """Undo ``attach``, also where that was cancelled half way; awaited."""

    def present(channel):
        """Return the members that subscribe to ``channel``, without repeats; awaited."""

    def aclose():
        """Close what belongs to the running event loop; awaited. Subscriptions that need it end."""


class IChannels(Interface):
    """The ``Channels`` of an application."""
