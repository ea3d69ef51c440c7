"""``add_request_attribute``: how the other files of this folder give requests an attribute."""

from pyramid_asgi_consumers.attributes import RequestAttributes
from pyramid_asgi_consumers.interfaces import IRequestAttributes


def add_request_attribute(config, name, get):
    """Give requests an attribute ``name``, which is ``get(request)``.

    As ``config.add_request_method(get, name, property=True)``, with which it conflicts.
    """
    introspectable = config.introspectable(
        "request extensions", name, config.object_description(get), "request property"
    )
    introspectable.update(callable=get, property=True, reify=False)

    def register():
        config.registry.getUtility(IRequestAttributes).add(name, get)

    config.action(("request extensions", name), register, introspectables=(introspectable,))


def includeme(config):
    attributes = RequestAttributes()
    config.registry.registerUtility(attributes, IRequestAttributes)
    config.add_request_method(attributes, "__class__")
